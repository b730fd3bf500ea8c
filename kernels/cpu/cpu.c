/* cpu.c - which vector kernels a backend gets. */
#include "kernels/cpu/cpu.h"

#include <string.h>

#include "kernels/ref/ref.h"

int cpu_open(const struct backend_options *o, struct backend **out, struct why *why) {
    if (!strcmp(o->isa, "auto")) return ref_open(out, why);
    return fail(why, ERR_UNSUPPORTED, "kernels \"%s\" are not in this build: use auto or ref", o->isa);
}
