/* test_checkpoint.c - tensors come out as they were written, in either format; a directory that does not add up is refused
 * with the tensor's name, what was wanted and what was found. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/convert.h"
#include "tests/unit/model/tiny.h"

#include "tests/unit/run.h"


/* For inner loops: Check's own assertions cost a system call each, even when they hold. */
#define HOLDS(condition, ...) ((condition) ? (void)0 : ck_abort_msg(__VA_ARGS__))

#define SIZES \
    "\"hidden_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":30," \
    "\"max_position_embeddings\":64,"
static const char *const configs[] = {
    "{\"model_type\":\"llama\"," SIZES "\"intermediate_size\":24,\"attention_bias\":true}",
    "{\"model_type\":\"mixtral\"," SIZES "\"intermediate_size\":8,\"num_local_experts\":4,\"num_experts_per_tok\":2}",
    "{\"model_type\":\"qwen2_moe\"," SIZES
    "\"intermediate_size\":24,\"moe_intermediate_size\":8,\"num_experts\":3,\"num_experts_per_tok\":2,"
    "\"shared_expert_intermediate_size\":12,\"mlp_only_layers\":[0]}",
    "{\"model_type\":\"qwen3_moe\"," SIZES
    "\"moe_intermediate_size\":8,\"num_experts\":3,\"num_experts_per_tok\":2,\"head_dim\":8}",
    "{\"model_type\":\"olmoe\"," SIZES "\"intermediate_size\":8,\"num_experts\":3,\"num_experts_per_tok\":2}",
    "{\"model_type\":\"cadre_moe\"," SIZES
    "\"moe_intermediate_size\":8,\"num_experts\":3,\"num_experts_per_tok\":2,\"tie_word_embeddings\":true,"
    "\"shared_expert_intermediate_size\":4,\"moe_router\":{\"kind\":\"flat\",\"score\":\"raw\",\"k\":2,\"norm\":\"none\","
    "\"weight\":\"one\","
    "\"bias\":true,\"sel_bias\":true}}",
};
enum { N_CONFIGS = sizeof configs / sizeof *configs };
static const char *const dtypes[] = {"F32", "F16", "BF16"};

static struct scratch dir;
static void setup(void) { scratch_open(&dir); }
static void teardown(void) { scratch_remove(&dir); }

static struct checkpoint open_good(void) {
    struct checkpoint c;
    struct why why = {""};
    ck_assert_msg(checkpoint_open(dir.dir, &c, &why) == 0, "%s", why.text);
    return c;
}

static void expect(int code, const char *const *says, int n) {
    struct checkpoint c = {.fingerprint = 7};
    struct why why = {""};
    int rc = checkpoint_open(dir.dir, &c, &why);
    ck_assert_msg(rc == code, "%s: %s", status_name(rc), why.text);
    for (int i = 0; i < n; i++) ck_assert_msg(strstr(why.text, says[i]) != NULL, "says '%s', wanted '%s'", why.text, says[i]);
    ck_assert_uint_eq(c.fingerprint, 7); /* untouched */
}
#define EXPECT(code, ...) \
    expect(code, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static int check_one(const struct checkpoint *c, enum tensor_role role, int layer, int expert, const char *dtype,
                     uint64_t *params) {
    struct tensor_want w;
    if (!model_tensor(&c->config, role, layer, expert, &w)) return 0;
    size_t n = (size_t)w.rows * (size_t)(w.cols ? w.cols : 1);
    float *f = malloc(n * sizeof *f);
    uint16_t *b = malloc(n * sizeof *b);
    checkpoint_read(c, role, layer, expert, FMT_F32, f);
    checkpoint_read(c, role, layer, expert, FMT_BF16, b);
    for (size_t i = 0; i < n; i++) {
        HOLDS(f[i] == tiny_value(w.name, i), "%s[%zu] is %g, wanted %g", w.name, i, f[i], tiny_value(w.name, i));
        HOLDS(b[i] == bf16_from_f32(f[i]), "%s[%zu] is %04x in bf16, %g in f32", w.name, i, b[i], f[i]);
    }
    const void *mf = checkpoint_map(c, role, layer, expert, FMT_F32), *mb = checkpoint_map(c, role, layer, expert, FMT_BF16);
    if (strcmp(dtype, "F32")) ck_assert_ptr_null(mf);
    if (strcmp(dtype, "BF16")) ck_assert_ptr_null(mb);
    ck_assert(!mf || ((uintptr_t)mf % 4 == 0 && !memcmp(mf, f, n * sizeof *f)));
    ck_assert(!mb || ((uintptr_t)mb % 2 == 0 && !memcmp(mb, b, n * sizeof *b)));
    free(f);
    free(b);
    *params += n;
    return 1 + (mf || mb) * 1000;
}

/* Every role, layer and expert there may be, one beyond included; the sum is what model_sizes says. */
static int check_all(const struct checkpoint *c, const char *dtype) {
    int found = 0;
    uint64_t params = 0;
    struct model_sizes s;
    for (int role = 0; role < T_ROLE_COUNT; role++)
        for (int layer = 0; layer < (role < T_ATTN_NORM ? 1 : c->config.layers + 1); layer++)
            for (int e = 0; e < (role >= T_EXPERT_GATE && role <= T_EXPERT_DOWN ? c->config.gate.experts + 1 : 1); e++)
                found += check_one(c, (enum tensor_role)role, layer, e, dtype, &params);
    model_sizes(&c->config, &s);
    ck_assert_uint_eq(s.params_total, params);
    return found;
}

START_TEST(every_family_and_dtype) {
    const char *dtype = dtypes[_i / N_CONFIGS];
    tiny_write(&dir, configs[_i % N_CONFIGS], &(struct tiny_edit){.dtype = dtype});
    struct checkpoint c = open_good();
    int found = check_all(&c, dtype);
    ck_assert_int_eq(found % 1000, st_count(c.tensors));
    ck_assert_int_eq(found / 1000, strcmp(dtype, "F16") ? st_count(c.tensors) : 0); /* mapped where no conversion is needed */
    checkpoint_close(&c);
    checkpoint_close(&c);
    checkpoint_close(NULL);
}
END_TEST

START_TEST(misaligned) {
    for (int d = 0; d < 3; d++) {
        tiny_write(&dir, configs[0], &(struct tiny_edit){.dtype = dtypes[d], .skew = 1 + d});
        struct checkpoint c = open_good();
        check_all(&c, dtypes[d]);
        checkpoint_close(&c);
    }
}
END_TEST

START_TEST(sharded) {
    tiny_write(&dir, configs[1], &(struct tiny_edit){.shards = 3});
    struct checkpoint c = open_good();
    ck_assert_int_eq(st_file_count(c.tensors), 3);
    check_all(&c, "F32");
    checkpoint_close(&c);
    tiny_write(&dir, configs[1],
               &(struct tiny_edit){.shards = 3, .promise = "model.norm.weight", .promise_shard = "part-2.safetensors"});
    EXPECT(ERR_CORRUPT, "model.norm.weight", "part-1.safetensors", "weight_map puts it in part-2.safetensors");
    tiny_write(&dir, configs[1],
               &(struct tiny_edit){.shards = 3, .promise = "model.norm.weight", .promise_shard = "part-7.safetensors"});
    EXPECT(ERR_NOT_FOUND, "part-7.safetensors", "No such file");
}
END_TEST

START_TEST(missing) {
    static const struct {
        int config;
        const char *name, *shape;
    } cases[] = {
        {0, "model.embed_tokens.weight", "[30, 16]"},
        {0, "lm_head.weight", "[30, 16]"},
        {0, "model.layers.1.self_attn.o_proj.bias", "[16]"},
        {1, "model.layers.1.block_sparse_moe.experts.3.w2.weight", "[16, 8]"},
        {2, "model.layers.1.mlp.shared_expert_gate.weight", "[1, 16]"},
        {2, "model.layers.0.mlp.down_proj.weight", "[16, 24]"},
        {3, "model.layers.0.self_attn.k_norm.weight", "[8]"},
        {5, "model.layers.0.mlp.gate.e_score_correction_bias", "[3]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_write(&dir, configs[cases[i].config], &(struct tiny_edit){.drop = cases[i].name});
        EXPECT(ERR_NOT_FOUND, dir.dir, cases[i].name, "is missing", cases[i].shape);
    }
}
END_TEST

START_TEST(wrong_shape) {
    static const struct { const char *name, *shape, *wanted; } cases[] = {
        {"model.embed_tokens.weight", "[29, 16]", "wanted [30, 16]"},
        {"model.layers.1.self_attn.q_proj.weight", "[256]", "wanted [16, 16]"},
        {"model.layers.1.self_attn.k_proj.weight", "[16, 8]", "wanted [8, 16]"},
        {"model.layers.0.input_layernorm.weight", "[16, 1]", "wanted [16]"},
        {"model.layers.0.mlp.down_proj.weight", "[24, 16]", "wanted [16, 24]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char found[64];
        snprintf(found, sizeof found, "found %s", cases[i].shape);
        tiny_write(&dir, configs[0], &(struct tiny_edit){.odd = cases[i].name, .odd_shape = cases[i].shape});
        EXPECT(ERR_INVALID, dir.dir, cases[i].name, "wrong shape", cases[i].wanted, found, "model.safetensors");
    }
}
END_TEST

START_TEST(wrong_dtype) {
    static const char *const odd[] = {"I32", "F64", "I8"};
    for (int i = 0; i < 3; i++) {
        tiny_write(&dir, configs[0], &(struct tiny_edit){.odd = "model.norm.weight", .odd_dtype = odd[i]});
        EXPECT(ERR_UNSUPPORTED, "model.norm.weight", "wrong dtype", "wanted F32, F16 or BF16", odd[i]);
    }
}
END_TEST

/* Held as stored, all experts are of one format: the widest that any of them has. */
START_TEST(stored_is_the_widest) {
    static const struct { const char *all, *odd, *odd_dtype; enum fmt wanted; } cases[] = {
        {"BF16", NULL, NULL, FMT_BF16},
        {"BF16", "model.layers.1.block_sparse_moe.experts.3.w1.weight", "F32", FMT_F32},
        {"BF16", "model.layers.1.block_sparse_moe.experts.3.w1.weight", "F16", FMT_F32},
        {"F32", "model.layers.0.block_sparse_moe.experts.0.w2.weight", "BF16", FMT_F32},
        {"BF16", "model.embed_tokens.weight", "F32", FMT_BF16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_write(&dir, configs[1],
                   &(struct tiny_edit){.dtype = cases[i].all, .odd = cases[i].odd, .odd_dtype = cases[i].odd_dtype});
        struct checkpoint c = open_good();
        ck_assert_int_eq(checkpoint_format(&c, T_EXPERT_UP, 0, 2, FMT_STORED), cases[i].wanted);
        ck_assert_int_eq(checkpoint_format(&c, T_LM_HEAD, 0, 0, FMT_STORED), strcmp(cases[i].all, "F32") ? FMT_BF16 : FMT_F32);
        checkpoint_close(&c);
    }
}
END_TEST

/* What serving is known to do without. */
START_TEST(extra_is_fine) {
    static const char *const names[] = {"model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq",
                                        "model.layers.2.self_attn.q_proj.weight", "model.layers.61.eh_proj.weight",
                                        "mtp.layers.0.enorm.weight", "model.mtp.norm.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        tiny_write(&dir, configs[0], &(struct tiny_edit){.extra = names[i]});
        struct checkpoint c = open_good();
        checkpoint_close(&c);
    }
}
END_TEST

/* All else is part of some other model than the one that config.json describes. */
START_TEST(extra_is_refused) {
    static const char *const names[] = {"model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.up_proj.bias",
                                        "model.layers.1.mlp.gate.e_score_correction_bias", "model.embed_norm.weight",
                                        "model.layers.0.self_attn.k_scale", "model.layers.0.mlp.experts.9.w1.weight",
                                        "model.layers.x.weight", "model.layers.2", "vision_model.x",
                                        "rotary_emb.inv_freq.scale"};
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            tiny_write(&dir, configs[c], &(struct tiny_edit){.extra = names[i]});
            EXPECT(ERR_UNSUPPORTED, dir.dir, names[i], "model.safetensors", "is in no part of model_type");
        }
}
END_TEST

START_TEST(broken_files) {
    EXPECT(ERR_NOT_FOUND, dir.dir, "no model directory");
    tiny_write(&dir, configs[0], NULL);
    scratch_text(&dir, "config.json", "{\"model_type\":\"llama\"");
    EXPECT(ERR_CORRUPT, dir.dir, "config.json, line 1");
    scratch_text(&dir, "config.json", configs[0]);
    scratch_text(&dir, "generation_config.json", "{\"eos_token_id\":30}");
    EXPECT(ERR_INVALID, "generation_config.json", "eos_token_id is 30");
    scratch_text(&dir, "generation_config.json", "{}");
    scratch_text(&dir, "model.safetensors", "12345678{}");
    EXPECT(ERR_TOO_LARGE, "model.safetensors", "header claims");
}
END_TEST

static uint64_t fingerprint(void) {
    struct checkpoint c = open_good();
    uint64_t f = c.fingerprint;
    checkpoint_close(&c);
    return f;
}

START_TEST(fingerprints) {
    uint64_t f[6];
    tiny_write(&dir, configs[0], NULL);
    f[0] = fingerprint();
    ck_assert_uint_eq(f[0], fingerprint());
    tiny_write(&dir, configs[0], &(struct tiny_edit){.dtype = "BF16"});
    f[1] = fingerprint();
    tiny_write(&dir, configs[0], &(struct tiny_edit){.extra = "mtp.more"});
    f[2] = fingerprint();
    tiny_write(&dir, configs[4], NULL);
    f[3] = fingerprint();
    scratch_text(&dir, "generation_config.json", "{}");
    f[4] = fingerprint();
    scratch_text(&dir, "generation_config.json", "{\"eos_token_id\":3}");
    f[5] = fingerprint();
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++) ck_assert_uint_ne(f[i], f[j]);
}
END_TEST

static const char *const golden[] = {"cadre_moe_all", "cadre_moe_one", "cadre_moe_raw", "cadre_moe_score",
                                     "llama",         "llama_tied",    "mixtral",       "mixtral_sharded",
                                     "olmoe",         "qwen2_moe",     "qwen3_moe"};
START_TEST(golden_checkpoints) {
    char path[512];
    struct checkpoint c;
    struct why why = {""};
    struct model_sizes s;
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, golden[_i]);
    ck_assert_msg(checkpoint_open(path, &c, &why) == 0, "%s", why.text);
    model_sizes(&c.config, &s);
    uint64_t elements = 0;
    for (int i = 0; i < st_count(c.tensors); i++)
        elements += st_at(c.tensors, i)->bytes / (size_t)st_dtype_bytes(st_at(c.tensors, i)->dtype);
    ck_assert_uint_eq(elements, s.params_total); /* so no tensor is extra */
    ck_assert_uint_le(s.params_active, s.params_total);
    checkpoint_close(&c);
}
END_TEST

START_TEST(sizes) {
    tiny_write(&dir, configs[1], NULL); /* H 16, L 2, Q 4, G 2, D 4, V 30, E 4, k 2, I 8, untied */
    struct checkpoint c = open_good();
    struct model_sizes s;
    model_sizes(&c.config, &s);
    const uint64_t layer = 2 * 16 + 2 * 16 * 16 + 2 * 8 * 16 + 4 * 16;
    ck_assert_uint_eq(s.expert_params, 3 * 8 * 16);
    ck_assert_uint_eq(s.resident_params, 2 * 30 * 16 + 16 + 2 * layer);
    ck_assert_uint_eq(s.params_total, s.resident_params + 2 * 4 * s.expert_params);
    /* One row of the embedding is read: the table does not count. */
    ck_assert_uint_eq(s.params_active, s.resident_params - 30 * 16 + 2 * 2 * s.expert_params);
    ck_assert_uint_eq(s.kv_elements_per_token, 2 * 2 * 2 * 4);
    checkpoint_close(&c);
}
END_TEST

/* All f16 there are, against ldexp. */
START_TEST(half_precision) {
    static uint16_t in[65537], narrow[65536];
    static float wide[65536];
    uint8_t *odd = (uint8_t *)in + 1;
    for (uint32_t i = 0; i < 65536; i++) memcpy(odd + 2 * i, &(uint16_t){(uint16_t)i}, 2);
    convert(wide, FMT_F32, odd, ST_F16, 65536);
    convert(narrow, FMT_BF16, odd, ST_F16, 65536);
    for (uint32_t i = 0; i < 65536; i++) {
        int e = i >> 10 & 31, m = i & 1023;
        float want = e == 31 ? (m ? NAN : INFINITY) : e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24);
        if (i & 0x8000) want = -want;
        HOLDS(isnan(want) ? isnan(wide[i]) : !memcmp(&wide[i], &want, 4), "f16 %04x is %g, wanted %g", i, wide[i], want);
        HOLDS(narrow[i] == bf16_from_f32(wide[i]), "f16 %04x is %04x in bf16", i, narrow[i]);
    }
}
END_TEST

START_TEST(brain_float) {
    enum { N = 1 << 20 };
    float *in = malloc(N * sizeof *in), back[1];
    uint16_t *out = malloc(N * sizeof *out);
    for (uint32_t i = 0; i < N; i++) {
        uint32_t u = i * 4099u + (i & 7) * 0x1fffu;
        memcpy(&in[i], &u, 4);
    }
    convert(out, FMT_BF16, in, ST_F32, N);
    for (uint32_t i = 0; i < N; i++) {
        if (isnan(in[i])) {
            convert(back, FMT_F32, &out[i], ST_BF16, 1);
            HOLDS(isnan(back[0]), "NaN became %g", back[0]);
        } else {
            HOLDS(out[i] == bf16_from_f32(in[i]), "%a is %04x, wanted %04x", in[i], out[i], bf16_from_f32(in[i]));
        }
    }
    free(in);
    free(out);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("checkpoint");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, every_family_and_dtype, 0, N_CONFIGS * 3);
    tcase_add_test(t, misaligned);
    tcase_add_test(t, sharded);
    tcase_add_test(t, missing);
    tcase_add_test(t, wrong_shape);
    tcase_add_test(t, wrong_dtype);
    tcase_add_test(t, stored_is_the_widest);
    tcase_add_test(t, extra_is_fine);
    tcase_add_test(t, extra_is_refused);
    tcase_add_test(t, broken_files);
    tcase_add_test(t, fingerprints);
    tcase_add_loop_test(t, golden_checkpoints, 0, sizeof golden / sizeof *golden);
    tcase_add_test(t, sizes);
    tcase_add_test(t, half_precision);
    tcase_add_test(t, brain_float);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
