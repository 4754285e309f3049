"""Many runs of one recipe with other settings, and the choice between them."""
