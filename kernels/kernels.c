/* kernels.c - number formats, and which implementation a backend gets.
 *
 * The choice is made once, at open, from what the processor says it can do (and the system saves on a context switch: the
 * compiler's CPU check asks both). Nothing else in Cadre tests for instruction sets. */
#include "kernels/kernels.h"

#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

size_t fmt_bytes(enum fmt f) {
    return f == FMT_F32 ? 4 : 2;
}

const char *fmt_name(enum fmt f) {
    static const char *const names[FMT_COUNT] = {[FMT_F32] = "f32", [FMT_BF16] = "bf16"};
    return f >= 0 && f < FMT_COUNT ? names[f] : "?";
}

int fmt_parse(const char *name) {
    for (int f = 0; f < FMT_COUNT; f++) {
        if (!strcmp(name, fmt_name((enum fmt)f))) return f;
    }
    return ERR_INVALID;
}

float bf16_to_f32(uint16_t b) {
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

uint16_t bf16_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    bool nan = (bits & 0x7fffffff) > 0x7f800000;
    if (nan) return (uint16_t)(bits >> 16 | 0x40); /* made quiet: rounding could turn it into infinity */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

int backend_open(const struct backend_options *o, struct backend **out, struct why *why) {
    if (o->threads < 1) return fail(why, ERR_INVALID, "a backend of %d threads: at least 1 is needed", o->threads);
    if (!strcmp(o->isa, "ref")) return ref_open(out, why);
    return cpu_open(o, out, why);
}

void backend_close(struct backend *b) {
    if (b) b->ops->close(b);
}
