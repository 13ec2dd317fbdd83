"""LaTeX formulas as MathML, which browsers draw by themselves: no script, no font, no request.

It knows what the pages of this site use and refuses the rest by name, so that a formula is either drawn
as it is written or stops the build.
"""

from __future__ import annotations

import re
from html import escape

__all__ = ["mathml"]

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[0-9]+(?:\.[0-9]+)?|\S")
_LETTERS = {
    "alpha": "α", "lambda": "λ", "sigma": "σ", "rho": "ρ", "tau": "τ", "Delta": "Δ", "ell": "ℓ", "infty": "∞",
}  # fmt: skip
_OPERATORS = {
    "cdot": "·", "times": "×", "le": "≤", "ge": "≥", "ne": "≠", "in": "∈", "to": "→", "mid": "∣", "pm": "±",
    "approx": "≈", "leftarrow": "←", "dots": "…", "quad": "\u2003", ",": "\u2009", "ll": "≪", "|": "‖",
    "lVert": "‖", "rVert": "‖", "lvert": "|", "rvert": "|", "{": "{", "}": "}", "circ": "∘",
}  # fmt: skip
_FUNCTIONS = ("cos", "ln", "exp", "log")
_THIN = '<mspace width="0.17em"></mspace>'
# Their limits stand above and below where there is room.
_WITH_LIMITS = {"sum": "∑", "max": "max", "min": "min", "median": "median", "mean": "mean"}
_BLACKBOARD = {"R": "ℝ"}
_ACCENTS = {"hat": "^", "bar": "¯"}
_OPENING, _CLOSING = ("(", "[", r"\lVert", r"\lvert", r"\{"), (")", "]", r"\rVert", r"\rvert", r"\}")


def mathml(latex: str, display: bool = False) -> str:
    """A formula as a ``<math>`` element.

    Raises:
        ValueError: for a command that is not known here, or braces that do not match.

    Example:
        >>> mathml("x_s")
        '<math><mrow><msub><mi>x</mi><mi>s</mi></msub></mrow></math>'
    """
    formula = _Formula(latex, display)
    content = formula.row()
    if formula.left:
        raise ValueError(f"formula {latex!r}: {formula.left[0]!r} closes nothing")
    opening = '<math display="block">' if display else "<math>"
    return f"{opening}{content}</math>"


class _Formula:
    """The tokens of a formula that are left to read."""

    def __init__(self, latex: str, display: bool) -> None:
        self.latex = latex
        self.display = display
        self.left = _TOKEN.findall(_texts_packed(latex))

    def row(self) -> str:
        """Everything up to the end, a closing brace or the end of a pair of fences."""
        parts = []
        while self.left and self.left[0] not in ("}", r"\right"):
            parts.append(self._scripted())
        return f"<mrow>{''.join(parts)}</mrow>"

    def _scripted(self) -> str:
        limits = self.display and self.left[0].removeprefix("\\") in _WITH_LIMITS
        space = _THIN if self.left[0].removeprefix("\\") in _FUNCTIONS else ""
        base = self._atom()
        scripts: dict[str, str] = {}
        while self.left and self.left[0] in "_^":
            sign = self._next()
            if sign in scripts:
                raise ValueError(f"formula {self.latex!r}: two {sign!r} on one base")
            scripts[sign] = self._atom()
        if not scripts:
            return base + space
        below, above = ("under", "over") if limits else ("sub", "sup")
        tag = "m" + (below if "_" in scripts else "") + (above if "^" in scripts else "")
        return f"<{tag}>{base}{scripts.get('_', '')}{scripts.get('^', '')}</{tag}>{space}"

    def _atom(self) -> str:
        token = self._next()
        if token == "{":
            content = self.row()
            self._expect("}")
            # One letter in braces is the letter.
            return content if content.count("</m") > 2 else content[len("<mrow>") : -len("</mrow>")]
        if token.startswith("\\"):
            return self._command(token[1:])
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        return _operator({"-": "−", "'": "′"}.get(token, token), fence=token in "()[]|")

    def _command(self, name: str) -> str:
        if name in _LETTERS:
            return f"<mi>{_LETTERS[name]}</mi>"
        if name in _WITH_LIMITS:
            sign = _WITH_LIMITS[name]
            movable = ' movablelimits="true"' if not self.display else ""
            return f"<mo{movable}>{sign}</mo>"
        if name in _FUNCTIONS:
            return f"<mi>{name}</mi>"
        if name in _OPERATORS:
            return _operator(_OPERATORS[name], fence=f"\\{name}" in _OPENING + _CLOSING)
        if name == "frac":
            return f"<mfrac>{self._atom()}{self._atom()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self._atom()}</msqrt>"
        if name in _ACCENTS:
            return f'<mover accent="true">{self._atom()}<mo>{_ACCENTS[name]}</mo></mover>'
        if name in ("mathrm", "text", "mathbb"):
            return self._verbatim(name)
        if name == "left":
            return self._fenced()
        raise ValueError(f"formula {self.latex!r}: \\{name} is not known to docs/building/mathml.py")

    def _verbatim(self, name: str) -> str:
        self._expect("{")
        text = ""
        while self.left and self.left[0] != "}":
            text += self._next()
        self._expect("}")
        if name == "mathbb":
            return f"<mi>{_BLACKBOARD[text]}</mi>"
        tag = "mtext" if name == "text" else "mi"
        normal = ' mathvariant="normal"' if tag == "mi" else ""
        return f"<{tag}{normal}>{escape(text).replace(_SPACE, _NO_BREAK)}</{tag}>"

    def _fenced(self) -> str:
        opening, content = self._next(), self.row()
        self._expect(r"\right")
        fences = [_OPERATORS.get(sign[1:], sign) for sign in (opening, self._next())]
        left, right = (f'<mo fence="true" stretchy="true">{escape(sign)}</mo>' for sign in fences)
        return f"<mrow>{left}{content}{right}</mrow>"

    def _next(self) -> str:
        if not self.left:
            raise ValueError(f"formula {self.latex!r} ends too early")
        return self.left.pop(0)

    def _expect(self, token: str) -> None:
        if (found := self._next()) != token:
            raise ValueError(f"formula {self.latex!r}: {found!r} where {token!r} should be")


_NO_BREAK = "\u00a0"
_SPACE = "\ue000"  # stands for a space inside \text, which the tokens would lose


def _texts_packed(latex: str) -> str:
    return re.sub(r"\\text\{[^{}]*\}", lambda match: match[0].replace(" ", _SPACE), latex)


def _operator(sign: str, fence: bool = False) -> str:
    stretchy = ' stretchy="false"' if fence else ""
    return f"<mo{stretchy}>{escape(sign)}</mo>"
