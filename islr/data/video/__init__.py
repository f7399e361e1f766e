"""Video decoding under one contract: exact frames, upright, or a typed error."""
