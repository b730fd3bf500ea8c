/* test_rope.c - scaled rotary embeddings against the frequencies of the reference implementation
 * (tests/fixtures/rope.jsonl). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "model/config.h"
#include "tests/unit/model/fixture.h"

#include "tests/unit/run.h"


static struct model_config parse(const json_t *config) {
    struct model_config c;
    struct why why = {""};
    char *text = json_dumps(config, 0);
    ck_assert_msg(model_config_parse(text, strlen(text), NULL, 0, &c, &why) == 0, "%s: %s", text, why.text);
    free(text);
    return c;
}

START_TEST(as_the_reference) {
    struct fixture f;
    int n = 0;
    fixture_open(&f, "rope.jsonl");
    for (char *line = f.data, *end; (end = strchr(line, '\n')); line = end + 1, n++) {
        json_t *entry = json_loadb(line, (size_t)(end - line), 0, NULL);
        const json_t *want = json_object_get(entry, "frequencies");
        struct model_config c = parse(json_object_get(entry, "config"));
        float got[ROPE_MAX_DIMS / 2];
        ck_assert_uint_eq(json_array_size(want), (size_t)c.rope.dims / 2);
        ck_assert_double_eq_tol(c.rope.amplitude, json_number_value(json_object_get(entry, "amplitude")), 1e-12);
        rope_frequencies(&c.rope, got);
        for (int j = 0; j < c.rope.dims / 2; j++) {
            double w = json_number_value(json_array_get(want, (size_t)j));
            ck_assert_msg(fabs((double)got[j] - w) <= 4e-7 * w, "case %d, pair %d: %.9g, wanted %.9g", n, j, (double)got[j], w);
        }
        json_decref(entry);
    }
    ck_assert_int_ge(n, 12);
    fixture_close(&f);
}
END_TEST

START_TEST(table) {
    struct rope r = {.kind = ROPE_LINEAR, .theta = 16, .dims = 4, .factor = 2, .amplitude = 3};
    float t[3 * 4], want[] = {1, 0, 1, 0, cosf(0.5f), sinf(0.5f), cosf(0.125f), sinf(0.125f), cosf(1), sinf(1), cosf(0.25f),
                              sinf(0.25f)};
    rope_table(&r, 3, t);
    for (int i = 0; i < 12; i++) ck_assert_float_eq_tol(t[i], 3 * want[i], 1e-6f);
}
END_TEST

/* The numbers of DeepSeek-V3, V2 and GPT-OSS. */
START_TEST(temperature) {
    double v3 = rope_mscale(40, 1), v2 = rope_mscale(40, 0.707);
    ck_assert_double_eq_tol(v3 * v3 / sqrt(192), 0.1352338, 1e-7);
    ck_assert_double_eq_tol(v2 * v2 / sqrt(192), 0.1147214, 1e-7);
    ck_assert_double_eq_tol(rope_mscale(32, 1), 1.3465736, 1e-7);
    ck_assert_double_eq(rope_mscale(1, 1), 1);
}
END_TEST

int main(void) {
    Suite *s = suite_create("rope");
    TCase *c = tcase_create("rope");
    tcase_add_test(c, as_the_reference);
    tcase_add_test(c, table);
    tcase_add_test(c, temperature);
    suite_add_tcase(s, c);
    return run_suite(s);
}
