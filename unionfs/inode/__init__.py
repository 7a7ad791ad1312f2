"""Inodes: the numbers that the kernel knows, the objects behind them, and what is open of them."""
