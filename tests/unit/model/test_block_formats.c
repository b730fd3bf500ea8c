/* test_block_formats.c - fp8 and mxfp4 checkpoints: what is read is what the bytes say, and files that contradict config.json
 * or lack their scales are refused by name. The cases are golden checkpoints with a few characters exchanged. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/model/tiny.h"

#include "tests/unit/run.h"

static struct scratch dir;
static void setup(void) { scratch_open(&dir); }
static void teardown(void) { scratch_remove(&dir); }

static char *read_file(const char *checkpoint, const char *name, size_t *len) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/%s", GOLDEN_DATA, checkpoint, name);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *text = malloc(*len + 1);
    ck_assert(text && fread(text, 1, *len, f) == *len);
    text[*len] = 0;
    fclose(f);
    return text;
}

/* Copies a file into the scratch folder, every `from` (all of one length) turned into `to`. */
static void copy_file(const char *checkpoint, const char *name, const char *from, const char *to) {
    size_t len, n = from ? strlen(from) : 0;
    char *text = read_file(checkpoint, name, &len);
    int found = 0;
    if (from) {
        ck_assert_uint_eq(n, strlen(to));
        for (char *p = text; (p = memmem(p, len - (size_t)(p - text), from, n)); p += n) memcpy(p, to, n), found++;
        ck_assert_msg(found > 0, "%s has no %s", name, from);
    }
    scratch_write(&dir, name, text, len);
    free(text);
}

static const struct {
    const char *checkpoint, *file, *from, *to;
    int code;
    const char *says[3];
} cases[] = {
    {"qwen3_moe_fp8", "config.json", "quantization_config", "quantization_absent", ERR_UNSUPPORTED,
     {"F8_E4M3", "no quantization_config", "quant_method \"fp8\""}},
    {"qwen3_moe_fp8", "config.json", "32,\n      32", "48,\n      48", ERR_INVALID,
     {"_scale_inv", "wrong shape", "wanted [2, 2]"}},
    {"qwen3_moe_fp8", "model.safetensors", "layers.1.mlp.experts.2.up_proj.weight_scale_inv",
     "layers.1.mlp.experts.2.up_proj.weight_scale_INV", ERR_NOT_FOUND,
     {"layers.1.mlp.experts.2.up_proj.weight", "no scales beside it", "_scale_inv"}},
    {"qwen3_moe_fp8", "model.safetensors", "F8_E4M3", "F8_E5M2", ERR_UNSUPPORTED, {"wrong dtype", "F8_E4M3", "found F8_E5M2"}},
    {"gpt_oss_mxfp4", "config.json", "quantization_config", "quantization_absent", ERR_NOT_FOUND,
     {"model.layers.0.mlp.experts.gate_up_proj is missing", "[5, 64, 128]", "config.json"}},
    {"gpt_oss_mxfp4", "config.json", "\"mxfp4\"", "\"mxfp8\"", ERR_UNSUPPORTED, {"quant_method", "\"mxfp8\"", "\"mxfp4\""}},
    {"gpt_oss_mxfp4", "model.safetensors", "layers.1.mlp.experts.down_proj_scales", "layers.1.mlp.experts.down_proj_SCALES",
     ERR_NOT_FOUND, {"layers.1.mlp.experts.down_proj_blocks", "no scales beside it", "_scales"}},
    {"gpt_oss_mxfp4", "model.safetensors", "\"U8\"", "\"I8\"", ERR_UNSUPPORTED, {"wrong dtype", "U8 (mxfp4)", "found I8"}},
};
enum { CASES = sizeof cases / sizeof *cases };

START_TEST(refused) {
    struct checkpoint c;
    struct why why = {""};
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        bool edit = !strcmp(files[i], cases[_i].file);
        copy_file(cases[_i].checkpoint, files[i], edit ? cases[_i].from : NULL, cases[_i].to);
    }
    int rc = checkpoint_open(dir.dir, &c, &why);
    ck_assert_msg(rc == cases[_i].code, "%s: %s", status_name(rc), why.text);
    for (int i = 0; i < 3; i++)
        ck_assert_msg(strstr(why.text, cases[_i].says[i]) != NULL, "says '%s', wanted '%s'", why.text, cases[_i].says[i]);
}
END_TEST

static struct checkpoint open_golden(const char *name) {
    char path[512];
    struct checkpoint c;
    struct why why = {""};
    snprintf(path, sizeof path, "%s/%s", GOLDEN_DATA, name);
    ck_assert_msg(checkpoint_open(path, &c, &why) == 0, "%s", why.text);
    return c;
}

/* Elements of an expert's matrix against the tensor on disk, by the definition of the format. */
START_TEST(fp8_by_hand) {
    struct checkpoint c = open_golden("qwen3_moe_fp8");
    const int I = c.config.expert_ffn, H = c.config.hidden, B = c.config.quant_block, across = (H + B - 1) / B;
    const struct st_tensor *t = st_find(c.tensors, "model.layers.1.mlp.experts.3.gate_proj.weight");
    const struct st_tensor *s = st_find(c.tensors, "model.layers.1.mlp.experts.3.gate_proj.weight_scale_inv");
    ck_assert(t && s && s->dtype == ST_BF16 && I % B && H % B); /* edge blocks are cut */
    ck_assert_int_eq(checkpoint_format(&c, T_EXPERT_GATE, 1, 3, FMT_STORED), FMT_FP8);
    ck_assert_int_eq(checkpoint_format(&c, T_EXPERT_GATE, 1, 3, FMT_F32), FMT_F32);
    ck_assert_int_eq(checkpoint_format(&c, T_Q, 0, 0, FMT_STORED), FMT_FP8);
    ck_assert_int_eq(checkpoint_format(&c, T_EMBED, 0, 0, FMT_STORED), FMT_BF16);
    float *wide = malloc((size_t)(I * H) * sizeof *wide);
    checkpoint_read(&c, T_EXPERT_GATE, 1, 3, FMT_F32, wide);
    for (int r = 0; r < I; r++)
        for (int k = 0; k < H; k++) {
            uint16_t scale;
            memcpy(&scale, (const uint16_t *)s->data + r / B * across + k / B, sizeof scale);
            if (wide[r * H + k] != e4m3_to_f32(((const uint8_t *)t->data)[r * H + k]) * bf16_to_f32(scale))
                ck_abort_msg("element %d, %d", r, k);
        }
    free(wide);
    checkpoint_close(&c);
}
END_TEST

START_TEST(mxfp4_by_hand) {
    struct checkpoint c = open_golden("gpt_oss_mxfp4");
    const int I = c.config.expert_ffn, H = c.config.hidden, e = 2;
    const struct st_tensor *t = st_find(c.tensors, "model.layers.1.mlp.experts.gate_up_proj_blocks");
    const struct st_tensor *s = st_find(c.tensors, "model.layers.1.mlp.experts.gate_up_proj_scales");
    ck_assert(t && s);
    float *wide = malloc((size_t)(I * H) * sizeof *wide);
    checkpoint_read(&c, T_EXPERT_UP, 1, e, FMT_F32, wide);
    for (int r = 0; r < I; r++)
        for (int k = 0; k < H; k++) {
            int row = (e * 2 * I) + 2 * r + 1; /* up: the odd rows */
            unsigned byte = ((const uint8_t *)t->data)[(row * H + k) / 2], nibble = k % 2 ? byte >> 4 : byte & 15;
            float scale = e8m0_to_f32(((const uint8_t *)s->data)[(row * H + k) / 32]);
            if (wide[r * H + k] != e2m1_to_f32(nibble) * scale) ck_abort_msg("element %d, %d", r, k);
        }
    free(wide);
    checkpoint_close(&c);
}
END_TEST

/* The form that is not quantised: [E, H, 2 I] and [E, I, H], transposed and interleaved. */
START_TEST(fused_by_hand) {
    struct checkpoint c = open_golden("gpt_oss");
    const int I = c.config.expert_ffn, H = c.config.hidden, e = 3;
    const uint16_t *up = st_find(c.tensors, "model.layers.2.mlp.experts.gate_up_proj")->data;
    const uint16_t *down = st_find(c.tensors, "model.layers.2.mlp.experts.down_proj")->data;
    const uint16_t *bias = st_find(c.tensors, "model.layers.2.mlp.experts.gate_up_proj_bias")->data;
    float *wide = malloc((size_t)(I * H) * sizeof *wide);
    uint16_t v;
    checkpoint_read(&c, T_EXPERT_GATE, 2, e, FMT_F32, wide);
    for (int r = 0; r < I; r++)
        for (int k = 0; k < H; k++) {
            memcpy(&v, up + (e * H + k) * 2 * I + 2 * r, sizeof v);
            if (wide[r * H + k] != bf16_to_f32(v)) ck_abort_msg("gate %d, %d", r, k);
        }
    checkpoint_read(&c, T_EXPERT_DOWN, 2, e, FMT_F32, wide);
    for (int r = 0; r < H; r++)
        for (int k = 0; k < I; k++) {
            memcpy(&v, down + (e * I + k) * H + r, sizeof v);
            if (wide[r * I + k] != bf16_to_f32(v)) ck_abort_msg("down %d, %d", r, k);
        }
    checkpoint_read(&c, T_EXPERT_UP_BIAS, 2, e, FMT_F32, wide);
    for (int r = 0; r < I; r++) {
        memcpy(&v, bias + e * 2 * I + 2 * r + 1, sizeof v);
        if (wide[r] != bf16_to_f32(v)) ck_abort_msg("bias %d", r);
    }
    ck_assert_ptr_null(checkpoint_map(&c, T_EXPERT_GATE, 2, e, FMT_BF16)); /* its rows lie apart */
    free(wide);
    checkpoint_close(&c);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("block formats");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, refused, 0, CASES);
    tcase_add_test(t, fp8_by_hand);
    tcase_add_test(t, mxfp4_by_hand);
    tcase_add_test(t, fused_by_hand);
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
