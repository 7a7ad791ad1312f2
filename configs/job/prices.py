"""The project of job.toml."""


def total(cents: list[int]) -> int:
    """Return the sum, which no discount makes negative."""
    return max(0, sum(cents))
