"""The state and run directories: what they hold, who may use it, and how what has ended is removed."""
