"""Activation patching over pairs of prompts."""
