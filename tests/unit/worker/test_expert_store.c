/* test_expert_store.c - blobs say what they are, hold what the checkpoint has, and a flipped byte is noticed.
 *
 * usage: test_expert_store DATA_DIR */
#include "worker/expert_store.h"

#include <stdio.h>
#include <string.h>

#include "tests/unit/run.h"

static const char *data_dir;

START_TEST(blobs) {
    static const enum fmt formats[] = {FMT_F32, FMT_BF16};
    enum fmt fmt = formats[_i];
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct placement p;
    struct expert_store s;
    struct load load = {0};
    snprintf(dir, sizeof dir, "%s/qwen2_moe", data_dir); /* layer 1 is dense */
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    ck_assert_int_eq(placement_contiguous(&p, 2, c.config.moe_layers, c.config.gate.experts, &why), 0);
    ck_assert_msg(expert_store_open(&s, b, &c, NULL, fmt, &p, 1, &load, &why) >= 0, "%s", why.text);
    int n = s.first[s.layers];
    ck_assert_int_eq(n, c.config.moe_layers * (c.config.gate.experts - c.config.gate.experts / 2));
    ck_assert_uint_eq(load.done, s.bytes);
    for (int i = 0; i < n; i++) {
        const struct blob_header *h = &s.slots[i].blob.header;
        ck_assert_uint_eq(h->magic, BLOB_MAGIC);
        ck_assert_uint_eq(h->hidden, (uint32_t)c.config.hidden);
        ck_assert_int_ge(c.config.moe_index[h->layer], 0);
        float up[256 * 64], first[256 * 64];
        ck_assert_int_lt(c.config.hidden * c.config.expert_ffn, 256 * 64);
        checkpoint_read(&c, T_EXPERT_UP, (int)h->layer, (int)h->expert, fmt, up);
        b->ops->download(b, first, s.slots[i].ffn.up.data, (size_t)(c.config.hidden * c.config.expert_ffn) * fmt_bytes(fmt));
        ck_assert_mem_eq(up, first, (size_t)(c.config.hidden * c.config.expert_ffn) * fmt_bytes(fmt));
        ck_assert_int_eq(expert_store_verify(&s, i, &why), 0);
    }
    unsigned char byte, *victim = s.slots[1].blob.data + sizeof(struct blob_header) + 60; /* inside slot 1's payload */
    b->ops->download(b, &byte, victim, 1);
    byte ^= 4;
    b->ops->upload(b, victim, &byte, 1);
    ck_assert_int_eq(expert_store_verify(&s, 0, &why), 0);
    ck_assert_int_eq(expert_store_verify(&s, 1, &why), ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(why.text, "expert"));
    expert_store_close(&s);
    placement_clear(&p);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

/* What experts share is held once per layer by whoever has one of them: memory drops by what the others would have repeated. */
START_TEST(shared_rows) {
    enum fmt fmt = _i ? FMT_BF16 : FMT_F32;
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    snprintf(dir, sizeof dir, "%s/cadre_moe_rows", data_dir);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    struct model_config plain = c.config;
    plain.experts.shared_rows = 0;
    const int layers = c.config.moe_layers, experts = c.config.gate.experts, C = c.config.experts.shared_rows;
    ck_assert_int_eq(C, 9); /* 0.4 of 22 */
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    for (int workers = 1; workers <= 8; workers++) {
        struct placement p;
        ck_assert_int_eq(placement_contiguous(&p, workers, layers, experts, &why), 0);
        for (int w = 0; w < workers; w++) {
            struct expert_store s;
            struct load load = {0};
            ck_assert_msg(expert_store_open(&s, b, &c, NULL, fmt, &p, w, &load, &why) >= 0, "%s", why.text);
            size_t n = (size_t)s.first[layers], held = n ? (size_t)layers : 0;
            size_t common = blob_bytes(&c.config, fmt, BLOB_COMMON, 0, 0), own = blob_bytes(&c.config, fmt, BLOB_EXPERT, 0, 0);
            ck_assert_uint_eq(s.bytes, n * own + held * common);
            ck_assert_uint_eq(s.common_bytes, held * common);
            ck_assert_uint_eq(s.bytes, expert_store_bytes(&c.config, fmt, &p, w));
            ck_assert_uint_eq(s.bytes, load.done);
            size_t without = expert_store_bytes(&plain, fmt, &p, w), rows = (size_t)(3 * C * c.config.hidden) * fmt_bytes(fmt);
            if (n > held) /* up to 63 bytes of padding for each of three tensors of each blob, and one header */
                ck_assert_uint_ge(without - s.bytes + n * 192 + held * (192 + sizeof(struct blob_header)), (n - held) * rows);
            for (size_t i = 0; i < n; i++) {
                const struct expert_slot *e = &s.slots[i];
                ck_assert_ptr_eq(e->common, &s.common[i * held / n].ffn); /* one for all experts of the layer */
                ck_assert_int_eq(e->common->gate.rows + e->ffn.gate.rows, c.config.expert_ffn);
                ck_assert_int_eq(expert_store_verify(&s, (int)i, &why), 0);
            }
            if (n) { /* a flipped byte in what they share is every member's damage */
                unsigned char byte, *victim = s.common[0].blob.data + sizeof(struct blob_header) + 60;
                b->ops->download(b, &byte, victim, 1);
                byte ^= 1;
                b->ops->upload(b, victim, &byte, 1);
                ck_assert_int_eq(expert_store_verify(&s, 0, &why), ERR_CORRUPT);
                ck_assert_ptr_nonnull(strstr(why.text, "common rows"));
                ck_assert_int_eq(expert_store_verify(&s, (int)n - 1, &why), 0);
            }
            expert_store_close(&s);
        }
        placement_clear(&p);
    }
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

/* As they are on disk: bytes and scales in the blob, under its checksum, and worth what the expansion says. */
START_TEST(block_formats) {
    static const char *const names[] = {"qwen3_moe_fp8", "gpt_oss_mxfp4"};
    static const enum fmt formats[] = {FMT_FP8, FMT_MXFP4};
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct placement p;
    struct expert_store s;
    struct load load = {0};
    snprintf(dir, sizeof dir, "%s/%s", data_dir, names[_i]);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    ck_assert_int_eq(placement_contiguous(&p, 1, c.config.moe_layers, c.config.gate.experts, &why), 0);
    ck_assert_msg(expert_store_open(&s, b, &c, NULL, FMT_STORED, &p, 0, &load, &why) >= 0, "%s", why.text);
    ck_assert_uint_lt(s.bytes, expert_store_bytes(&c.config, FMT_BF16, &p, 0));
    const struct expert_slot *e = &s.slots[s.first[s.layers] - 1];
    const struct mat m = e->ffn.down;
    ck_assert(m.fmt == formats[_i] && m.scales && m.block == (_i ? 0 : c.config.quant_block));
    static float wide[256 * 256], x[256], y[256];
    ck_assert_int_lt(m.rows, 256);
    ck_assert_int_lt(m.cols, 256);
    checkpoint_read(&c, T_EXPERT_DOWN, (int)e->blob.header.layer, (int)e->blob.header.expert, FMT_F32, wide);
    for (int k = 0; k < m.cols; k++) {
        memset(x, 0, sizeof x);
        x[k] = 1;
        b->ops->linear(b, y, x, m, NULL, false, 1);
        for (int r = 0; r < m.rows; r++) ck_assert_float_eq(y[r], wide[r * m.cols + k]);
    }
    unsigned char byte, *victim = (unsigned char *)m.scales + 1;
    b->ops->download(b, &byte, victim, 1);
    byte ^= 1;
    b->ops->upload(b, victim, &byte, 1);
    ck_assert_int_eq(expert_store_verify(&s, 0, &why), 0);
    ck_assert_int_eq(expert_store_verify(&s, s.first[s.layers] - 1, &why), ERR_CORRUPT);
    expert_store_close(&s);
    placement_clear(&p);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

/* Worker 0's share of each layer as a bit mask, everything else is worker 1's. */
static struct placement share(const struct checkpoint *c, const int *masks) {
    struct placement p;
    struct why why = {""};
    uint64_t hosts[64];
    const int layers = c->config.moe_layers, experts = c->config.gate.experts;
    ck_assert_int_le(layers * experts, 64);
    for (int l = 0; l < layers; l++)
        for (int e = 0; e < experts; e++) hosts[l * experts + e] = masks[l] >> e & 1 ? 1 : 2;
    ck_assert_msg(placement_partial(&p, 2, layers, experts, hosts, &why) >= 0, "%s", why.text);
    return p;
}

/* Every slot is what a store that was opened for this placement would have, and says so. */
static void check_store(const struct expert_store *s, const struct checkpoint *c, const struct placement *p) {
    struct why why = {""};
    for (int l = 0; l < s->layers; l++) {
        ck_assert_int_eq(s->first[l + 1] - s->first[l], placement_slots(p, 0, l));
        for (int i = s->first[l]; i < s->first[l + 1]; i++) {
            ck_assert_msg(expert_store_verify(s, i, &why) == 0, "%s", why.text);
            ck_assert_int_eq(c->config.moe_index[s->slots[i].blob.header.layer], l);
            if (i > s->first[l]) ck_assert_uint_gt(s->slots[i].blob.header.expert, s->slots[i - 1].blob.header.expert);
            if (s->slots[i].common) ck_assert_ptr_eq(s->slots[i].common, &s->common[l * s->levels].ffn);
        }
    }
    ck_assert_uint_eq(s->bytes, expert_store_bytes(&c->config, FMT_F32, p, 0));
}

/* What stays is not moved, what comes is loaded and nothing else, what goes gives its memory back, and counts follow. */
START_TEST(changes) {
    static const char *const models[] = {"qwen3_moe", "cadre_moe_rows"};
    enum { STEPS = 6 };
    static const int few[] = {1, 1, 1, 1, 1, 1, 1, 1}, none[8] = {0};
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct expert_store s;
    struct load load = {0};
    snprintf(dir, sizeof dir, "%s/%s", data_dir, models[_i]);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    int all[8], even[8], odd[8];
    for (int l = 0; l < 8; l++) all[l] = (1 << c.config.gate.experts) - 1, even[l] = 0x5555 & all[l], odd[l] = 0xaaaa & all[l];
    const int *const road[STEPS] = {even, all, odd, none, few, all};
    ck_assert_int_le(c.config.moe_layers, 8);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    struct placement was = share(&c, road[0]);
    ck_assert_msg(expert_store_open(&s, b, &c, NULL, FMT_F32, &was, 0, &load, &why) >= 0, "%s", why.text);
    size_t opened = s.held;
    const unsigned char *stays = s.slots[0].blob.data;
    s.slots[0].rows = 77;
    for (int i = 1; i < STEPS; i++) {
        struct placement now = share(&c, road[i]);
        ck_assert_msg(expert_store_change(&s, &c, NULL, FMT_F32, &was, &now, 0, &load, &why) >= 0, "%s", why.text);
        ck_assert_uint_eq(load.done, load.total);
        ck_assert_uint_ge(s.held, s.bytes);
        check_store(&s, &c, &now);
        if (road[i] == none) ck_assert_uint_eq(s.held, opened);
        if (i == 1) ck_assert(s.slots[0].blob.data == stays && s.slots[0].rows == 77);
        placement_clear(&was);
        was = now;
    }
    expert_store_close(&s);
    placement_clear(&was);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

static void *no_memory(struct backend *b, size_t bytes, enum mem_kind kind);
/* A change for which there is no room leaves everything as it was. */
START_TEST(change_without_room) {
    static const int one[] = {1, 1, 1, 1, 1, 1, 1, 1}, three[] = {7, 7, 7, 7, 7, 7, 7, 7};
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct expert_store s;
    struct load load = {0};
    snprintf(dir, sizeof dir, "%s/cadre_moe_rows", data_dir);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    struct placement was = share(&c, one), now = share(&c, three);
    ck_assert_msg(expert_store_open(&s, b, &c, NULL, FMT_F32, &was, 0, &load, &why) >= 0, "%s", why.text);
    const struct ops *real = b->ops;
    struct ops poor = *real;
    poor.alloc = no_memory;
    b->ops = &poor;
    ck_assert_int_eq(expert_store_change(&s, &c, NULL, FMT_F32, &was, &now, 0, &load, &why), ERR_NOMEM);
    ck_assert_ptr_nonnull(strstr(why.text, "MiB more of experts"));
    b->ops = real;
    check_store(&s, &c, &was);
    expert_store_close(&s);
    placement_clear(&was);
    placement_clear(&now);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

static void *no_memory(struct backend *b, size_t bytes, enum mem_kind kind) {
    (void)b, (void)bytes, (void)kind;
    return NULL;
}

/* Whoever has to go does not load to the end first; what it had is as before. */
START_TEST(stopped) {
    static const int one[] = {1, 1, 1, 1, 1, 1, 1, 1}, three[] = {7, 7, 7, 7, 7, 7, 7, 7};
    char dir[1024];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct expert_store s;
    atomic_bool stop = true;
    struct load load = {.stop = &stop};
    snprintf(dir, sizeof dir, "%s/cadre_moe_rows", data_dir);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    struct placement was = share(&c, one), now = share(&c, three);
    ck_assert_int_eq(expert_store_open(&s, b, &c, NULL, FMT_F32, &was, 0, &load, &why), ERR_CANCELLED);
    ck_assert_uint_eq(load.done, 0);
    stop = false;
    ck_assert_int_eq(expert_store_open(&s, b, &c, NULL, FMT_F32, &was, 0, &load, &why), 0);
    stop = true;
    ck_assert_int_eq(expert_store_change(&s, &c, NULL, FMT_F32, &was, &now, 0, &load, &why), ERR_CANCELLED);
    ck_assert_uint_eq(load.done, 0);
    check_store(&s, &c, &was);
    expert_store_close(&s);
    placement_clear(&was);
    placement_clear(&now);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

START_TEST(out_of_memory) { /* the operator is told how much was wanted */
    char dir[1024], wanted[64];
    struct why why = {""};
    struct checkpoint c;
    struct backend *b;
    struct placement p;
    struct expert_store s;
    struct load load = {0};
    snprintf(dir, sizeof dir, "%s/qwen2_moe", data_dir);
    ck_assert_msg(checkpoint_open(dir, &c, &why) >= 0, "%s", why.text);
    ck_assert_int_eq(backend_open(&(struct backend_options){.isa = "ref", .threads = 1}, &b, &why), 0);
    c.config.expert_ffn = 1 << 20; /* only the size is computed before memory is asked for */
    ck_assert_int_eq(placement_contiguous(&p, 1, c.config.moe_layers, c.config.gate.experts, &why), 0);
    const struct ops *real = b->ops;
    struct ops poor = *real;
    poor.alloc = no_memory;
    b->ops = &poor;
    ck_assert_int_eq(expert_store_open(&s, b, &c, NULL, FMT_F32, &p, 0, &load, &why), ERR_NOMEM);
    size_t n = (size_t)(c.config.moe_layers * c.config.gate.experts);
    size_t mib = n * blob_bytes(&c.config, FMT_F32, BLOB_EXPERT, 0, 0) >> 20;
    snprintf(wanted, sizeof wanted, "%zu experts need %zu MiB", n, mib);
    ck_assert_msg(strstr(why.text, wanted), "'%s' does not say '%s'", why.text, wanted);
    b->ops = real;
    placement_clear(&p);
    backend_close(b);
    checkpoint_close(&c);
}
END_TEST

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    data_dir = argv[1];
    Suite *s = suite_create("expert_store");
    TCase *t = tcase_create("expert_store");
    tcase_add_loop_test(t, blobs, 0, 2);
    tcase_add_loop_test(t, shared_rows, 0, 2);
    tcase_add_loop_test(t, block_formats, 0, 2);
    tcase_add_loop_test(t, changes, 0, 2);
    tcase_add_test(t, change_without_room);
    tcase_add_test(t, stopped);
    tcase_add_test(t, out_of_memory);
    suite_add_tcase(s, t);
    return run_suite_here(s);
}
