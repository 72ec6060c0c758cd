"""What the package ships, by name and path: nothing heavy is imported to know it."""

SHIPPED = "teacher"
"""Name of the trained model that the package ships: small, full attention, trained on our synthetic pages."""

TEACHER = ("models", "assets", "teacher", "model.safetensors")
VISION_TOWER = ("models", "assets", "vision_tower", "model.safetensors")
