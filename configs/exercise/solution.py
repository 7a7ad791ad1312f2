# Reads one number a line and prints the sum of those before it.
total = 0
for line in open(0):
    print(total)
    total += int(line)
