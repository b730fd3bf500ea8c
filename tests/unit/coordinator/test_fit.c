/* test_fit.c - bytes per worker follow from config and placement; what does not fit is refused with numbers and advice. */
#include "coordinator/fit.h"

#include <string.h>

#include "tests/unit/coordinator/run.h"

static struct model_config config;
static struct why why;

static void make_config(void) {
    static const char json[] =
        "{\"model_type\":\"mixtral\",\"architectures\":[\"MixtralForCausalLM\"],\"hidden_size\":64,\"num_hidden_layers\":2,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":32,\"vocab_size\":100,\"num_local_experts\":"
        "8,"
        "\"num_experts_per_tok\":2,\"rms_norm_eps\":1e-5,\"rope_theta\":1e6,\"max_position_embeddings\":128,"
        "\"hidden_act\":\"silu\",\"torch_dtype\":\"float32\",\"tie_word_embeddings\":false}";
    ck_assert_msg(model_config_parse(json, sizeof json - 1, NULL, 0, &config, &why) >= 0, "%s", why.text);
}

START_TEST(sums) {
    int slots[2] = {10, 6};
    struct fit_plan p = {.config = &config, .weights = FMT_F32, .kv_tokens = 160, .workers = 2, .slots = slots};
    struct fit_bytes b;
    struct model_sizes s;
    model_sizes(&config, &s);
    fit_worker(&p, 0, &b);
    ck_assert_uint_eq(b.experts, 10u * 3 * 64 * 32 * 4);
    ck_assert_uint_eq(b.kv, 160u * 2 * 2 * 2 * 16 * 4); /* key and value, layers, heads, head_dim, bytes */
    ck_assert_uint_eq(b.resident, s.resident_params * 4);
    p.weights = FMT_BF16;
    struct fit_bytes half;
    fit_worker(&p, 0, &half);
    ck_assert_uint_eq(fit_total(&half) * 2, fit_total(&b));
}
END_TEST

START_TEST(refusals) {
    int slots[2] = {10, 6};
    struct fit_plan p = {.config = &config, .weights = FMT_F32, .kv_tokens = 160, .workers = 2, .slots = slots};
    struct fit_bytes a, b;
    fit_worker(&p, 0, &a);
    fit_worker(&p, 1, &b);
    ck_assert_int_eq(fit_check(&p, 0, 0, &why), 0);
    ck_assert_int_eq(fit_check(&p, fit_total(&a), 0, &why), 0);
    ck_assert_int_eq(fit_check(&p, fit_total(&a) - 1, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "worker 0 needs"));
    ck_assert_ptr_nonnull(strstr(why.text, "--weights bf16"));
    uint64_t sum = fit_total(&a) + fit_total(&b) - (a.mapped ? b.resident : 0);
    ck_assert_int_eq(fit_check(&p, 0, sum, &why), 0);
    ck_assert_int_eq(fit_check(&p, 0, sum - 1, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "this host needs"));
    p.kv_tokens = 1 << 20;
    ck_assert_int_eq(fit_check(&p, 1 << 20, 0, &why), ERR_EXHAUSTED);
    ck_assert_ptr_nonnull(strstr(why.text, "--kv-tokens"));
}
END_TEST

RUN("fit", make_config, NULL, sums, refusals)
