/* test_nomem.c - memory runs out at the n-th allocation, for every n until none is left to fail: loading answers ERR_NOMEM
 * with a reason, nothing is leaked (a sanitizer build checks that) and nothing crashes.
 *
 * The linker routes allocations of Cadre's libraries through __wrap_*, jansson's go through its own hook. When jansson 2.14
 * cannot grow a buffer it may report a syntax error or even lose a character of a long string, so after a failure in there
 * any answer is good that neither crashes nor leaks. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/model/tiny.h"

#include "tests/unit/failing.h"
#include "tests/unit/run.h"

static bool in_jansson;
static void *json_alloc(size_t n) {
    if (left == 0) in_jansson = true;
    return malloc(n);
}

static const char config[] =
    "{\"model_type\":\"qwen2_moe\",\"hidden_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_"
    "heads\":2,"
    "\"vocab_size\":30,\"max_position_embeddings\":64,\"intermediate_size\":24,\"moe_intermediate_size\":8,\"num_experts\":3,"
    "\"num_experts_per_tok\":2,\"shared_expert_intermediate_size\":12,\"mlp_only_layers\":[0],\"eos_token_id\":[1,2]}";

START_TEST(every_allocation) {
    struct scratch dir;
    struct checkpoint c;
    long n = 0;
    scratch_open(&dir);
    tiny_write(&dir, config, &(struct tiny_edit){.shards = _i * 2});
    scratch_text(&dir, "generation_config.json", "{\"eos_token_id\":3}");
    json_set_alloc_funcs(json_alloc, free);
    for (bool failed = true; failed; n++) {
        struct why why = {""};
        left = n;
        in_jansson = false;
        int rc = checkpoint_open(dir.dir, &c, &why);
        failed = left < 0;
        left = -1;
        const bool reason = rc == ERR_NOMEM && strstr(why.text, "out of memory");
        ck_assert_msg(in_jansson || (failed ? reason : rc == 0), "allocation %ld: %s: %s", n, status_name(rc), why.text);
        if (rc == 0) checkpoint_close(&c);
    }
    ck_assert_int_gt(n, 500);
    scratch_remove(&dir);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("nomem");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, every_allocation, 0, 2); /* one file; two shards */
    suite_add_tcase(suite, t);
    return run_suite(suite);
}
