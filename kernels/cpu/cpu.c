/* cpu.c - opens the fast backend: picks the vector routines, starts the team, takes the scratch memory. */
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/host_mem.h"
#include "kernels/isa.h"
#include "kernels/ref/ref.h"

#ifdef KERNELS_X86
/* VNNI changes no bit, so it is no name of its own in the numeric class. */
static const struct vec *avx512_vec(bool plain) {
    return !plain && isa_vnni() ? &vec_avx512vnni : &vec_avx512;
}
#endif

static void cpu_close(struct backend *b) {
    struct cpu *c = cpu_of(b);
    team_close(c->team);
    host_release(b, c->scratch);
    host_release(b, c->thread_scratch);
    free(c);
}

#define CPU_OPS(isa)                                                                                                           \
    {                                                                                                                          \
        .name = isa, .alloc = host_alloc, .release = host_release, .upload = host_upload, .download = host_download,           \
        .sync = host_sync, .adopt = host_adopt, .embed = cpu_embed, .rmsnorm = cpu_rmsnorm, .linear = cpu_linear,              \
        .linear_blocks = cpu_linear_blocks,                                                                                    \
        .rope = cpu_rope, .clamp = cpu_clamp, .kv_store = cpu_kv_store, .attention = cpu_attention, .ffn = cpu_ffn,            \
        .latent_query = cpu_latent_query, .latent_value = cpu_latent_value, .latent_expanded = cpu_latent_expanded,            \
        .gate_select = cpu_gate_select,                                                                                        \
        .gather = cpu_gather, .combine = cpu_combine, .dots = cpu_dots, .fuse = cpu_fuse, .add = cpu_add,                      \
        .logit_stats = cpu_logit_stats, .weigh = cpu_weigh, .close = cpu_close,                                                \
    }
static const struct ops avx2_ops = CPU_OPS("avx2"), avx512_ops = CPU_OPS("avx512");

static int open_with(const struct ops *ops, const struct vec *vec, int threads, struct backend **out, struct why *why) {
    struct cpu *c = calloc(1, sizeof *c);
    if (!c) return fail(why, ERR_NOMEM, "out of memory opening the %s backend", ops->name);
    c->base = (struct backend){.ops = ops, .threads = threads};
    c->vec = vec;
    c->scratch = host_alloc(&c->base, CPU_SCRATCH_BYTES, MEM_DEVICE);
    c->thread_scratch = host_alloc(&c->base, (size_t)threads * CPU_THREAD_BYTES, MEM_DEVICE);
    int rc = c->scratch && c->thread_scratch ? team_open(&c->team, threads, why)
                                             : fail(why, ERR_NOMEM, "out of memory for the %s backend's scratch", ops->name);
    if (rc < 0) {
        cpu_close(&c->base);
        return rc;
    }
    team_set_backend(c->team, &c->base);
    *out = &c->base;
    return 0;
}

int cpu_open(const struct backend_options *o, struct backend **out, struct why *why) {
    bool any = !strcmp(o->isa, "auto"), avx2 = !strcmp(o->isa, "avx2"), avx512 = !strcmp(o->isa, "avx512");
    const bool plain = !strcmp(o->isa, "avx512bw");
    if (!any && !avx2 && !avx512 && !plain)
        return fail(why, ERR_INVALID, "unknown kernels \"%s\": use auto, ref, avx2, avx512bw or avx512", o->isa);
#ifdef KERNELS_X86
    if ((any || avx512 || plain) && isa_avx512())
        return open_with(&avx512_ops, avx512_vec(plain), o->threads, out, why);
    if ((any || avx2) && isa_avx2()) return open_with(&avx2_ops, &vec_avx2, o->threads, out, why);
#else
    (void)open_with;
    (void)avx2_ops;
    (void)avx512_ops;
#endif
    if (any) return ref_open(out, why);
    return fail(why, ERR_UNSUPPORTED, "this processor cannot run the %s kernels: use auto", o->isa);
}

int cpu_col_block(const struct cpu *c, int cols, int64_t macs, int jobs) {
    int64_t all = cols * macs, tasks = all / CPU_TASK_MACS + 1, share = c->base.threads > 1 ? 4 * c->base.threads / jobs : 1;
    if (share > all / CPU_SMALL_TASK_MACS) share = all / CPU_SMALL_TASK_MACS;
    if (tasks < share) tasks = share;
    int64_t each = ((cols + tasks - 1) / tasks + 15) / 16 * 16;
    return (int)(each < cols ? each : imax(cols, 1));
}

struct rows_job {
    cpu_rows_fn *fn;
    void *arg;
    int T, each;
};

static void rows_task(void *arg, int task, int thread) {
    const struct rows_job *j = arg;
    (void)thread;
    j->fn(j->arg, task * j->each, imin(j->each, j->T - task * j->each));
}

void cpu_rows(struct cpu *c, cpu_rows_fn *fn, void *arg, int T, int64_t elements) {
    const int64_t worth = 32 * 1024; /* elements of a task: some microseconds */
    int each = elements >= worth ? 1 : (int)(worth / (elements > 0 ? elements : 1));
    if (T <= 0) return;
    if (T <= each) {
        fn(arg, 0, T);
        return;
    }
    struct rows_job job = {fn, arg, T, each};
    team_run(c->team, rows_task, &job, (T + each - 1) / each);
}
