#include <stdio.h>

int main(void)
{
	puts("built in the sandbox");
	return 0;
}
