"""Converters from a published corpus, or a folder of videos, to a manifest."""
