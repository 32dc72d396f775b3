"""The synthetic cohort: slide pairs drawn from known truth."""
