"""Masks over tokens, blind ones and those that follow hands, face or motion."""
