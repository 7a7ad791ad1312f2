import sys

# Reads one number a line and prints the sum of those before it.
total = 0
for line in sys.stdin:
    print(total)
    total += int(line)
