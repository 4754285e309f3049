"""What a user asks for: the recipe, its YAML, its rules and its budget."""
