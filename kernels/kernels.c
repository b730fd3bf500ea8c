/* kernels.c - which implementation a backend gets.
 *
 * The choice is made once, at open, from what the processor says it can do (and the system saves on a context switch: the
 * compiler's CPU check asks both). Nothing else in Cadre tests for instruction sets. */
#include "kernels/kernels.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

int backend_open(const struct backend_options *o, struct backend **out, struct why *why) {
    if (o->threads < 1) return fail(why, ERR_INVALID, "a backend of %d threads: at least 1 is needed", o->threads);
    if (!strcmp(o->isa, "ref")) return ref_open(out, why);
    return cpu_open(o, out, why);
}

void backend_close(struct backend *b) {
    if (b) b->ops->close(b);
}
