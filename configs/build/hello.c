#include <stdio.h>

int main(void) {
    puts("built in the sandbox on " __DATE__);
    return 0;
}
