"""From a plan to a process and back to nothing: the supervisor, the processes it makes, and what they say to
each other.
"""
