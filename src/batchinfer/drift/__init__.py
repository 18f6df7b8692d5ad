"""Drift: profiles of features and predictions, taken in the scoring pass and held against the reference's."""

__all__: list[str] = []
