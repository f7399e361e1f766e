"""Phonology as movement: hands, arms, bodies and signers in three dimensions over time."""
