"""The commands. Hydra stops here: everything below takes dataclasses."""
