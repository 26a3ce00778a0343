"""What a model directory holds: all that generate, score and average read."""

WEIGHTS, CONFIG, TEXT = "model.safetensors", "config.json", "text"
ENTRIES = (WEIGHTS, CONFIG, TEXT)
