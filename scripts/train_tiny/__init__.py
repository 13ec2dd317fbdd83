"""How the bundled model was trained. The commands are in the README beside this file."""
