/* config_rope.c - rope_theta, rope_scaling (older) or rope_parameters (newer), and how much of a head is rotated.
 *
 * The members of a scaling are closed per kind: one that the kind does not have would change nothing in one reference
 * implementation and everything in another, so it is refused. */
#include "model/config_parts.h"

#include <math.h>
#include <string.h>

enum { PLAIN = 1 << ROPE_PLAIN, LINEAR = 1 << ROPE_LINEAR, LLAMA3 = 1 << ROPE_LLAMA3, YARN = 1 << ROPE_YARN, ALL = 15 };
static const char *const kinds[] = {[ROPE_PLAIN] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3",
                                    [ROPE_YARN] = "yarn"};

static int read_kind(const json_t *rope, enum rope_kind *out, struct why *why) {
    const char *older = NULL, *word = NULL;
    struct json_shown shown;
    int rc = json_get_string(rope, "type", &older, why);
    if (rc >= 0) rc = json_get_string(rope, "rope_type", &word, why);
    if (rc < 0) return rc;
    if (older && word && strcmp(older, word))
        return fail(why, ERR_INVALID, "type and rope_type are two words; wanted one, or the same");
    if (!word) word = older ? older : kinds[ROPE_PLAIN];
    for (int k = ROPE_PLAIN; k <= ROPE_YARN; k++)
        if (!strcmp(word, kinds[k])) return *out = (enum rope_kind)k, 0;
    return fail(why, ERR_UNSUPPORTED, "rope_type is %s, which Cadre does not implement; accepted: \"default\", \"linear\", "
                "\"llama3\", \"yarn\"", json_show_text(word, &shown));
}

static int check_members(const json_t *rope, enum rope_kind kind, struct why *why) {
    static const struct {
        const char *key;
        unsigned kinds;
    } members[] = {
        {"rope_theta", ALL}, {"type", ALL}, {"rope_type", ALL}, {"partial_rotary_factor", ALL},
        {"factor", LINEAR | LLAMA3 | YARN}, {"original_max_position_embeddings", LLAMA3 | YARN}, {"low_freq_factor", LLAMA3},
        {"high_freq_factor", LLAMA3}, {"beta_fast", YARN}, {"beta_slow", YARN}, {"truncate", YARN}, {"mscale", YARN},
        {"mscale_all_dim", YARN}, {"attention_factor", YARN},
    };
    const char *key;
    const json_t *v;
    json_object_foreach((json_t *)rope, key, v) {
        bool known = json_is_null(v) || (kind == ROPE_PLAIN && !strcmp(key, "factor") && json_number_value(v) == 1);
        for (size_t i = 0; !known && i < sizeof members / sizeof *members; i++)
            known = !strcmp(key, members[i].key) && (members[i].kinds & 1u << kind);
        struct json_shown shown, shown_key;
        if (!known)
            return fail(why, ERR_UNSUPPORTED,
                        "has %s = %s, which Cadre does not implement for rope_type \"%s\"; accepted: null",
                        json_show_text(key, &shown_key), json_show(v, &shown), kinds[kind]);
    }
    return 0;
}

static int need_real(const json_t *rope, const char *key, double min, double *out, struct why *why) {
    int rc = json_get_real(rope, key, min, 1e6, out, why);
    if (rc == 0) rc = fail(why, ERR_INVALID, "%s is missing; wanted a number from %g to 1e6", key, min);
    return rc;
}

static int read_llama3(const json_t *rope, struct rope *r, struct why *why) {
    int rc = need_real(rope, "low_freq_factor", 1e-6, &r->low_freq, why);
    if (rc >= 0) rc = need_real(rope, "high_freq_factor", 1e-6, &r->high_freq, why);
    if (rc >= 0 && r->high_freq <= r->low_freq)
        rc = fail(why, ERR_INVALID, "high_freq_factor is %g and low_freq_factor %g; wanted more than it", r->high_freq,
                  r->low_freq);
    return rc;
}

/* The amplitude. attention_factor is it. Else the reference implementations agree only where mscale and mscale_all_dim are both
 * there or both absent; between, DeepSeek's own code takes 1 and 0 for what is absent, the others ignore the one that is
 * there. */
static double yarn_amplitude(const struct rope *r, double given, double mscale, bool deepseek) {
    if (given > 0) return given;
    if (deepseek) return rope_mscale(r->factor, mscale < 0 ? 1 : mscale) / rope_mscale(r->factor, r->mscale_all_dim);
    if (mscale > 0 && r->mscale_all_dim > 0) return rope_mscale(r->factor, mscale) / rope_mscale(r->factor, r->mscale_all_dim);
    return rope_mscale(r->factor, 1);
}

static int read_yarn(const json_t *rope, bool deepseek, struct rope *r, struct why *why) {
    double amplitude = 0, mscale = -1;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    int rc = json_get_real(rope, "beta_fast", 1e-6, 1e6, &r->beta_fast, why);
    if (rc >= 0) rc = json_get_real(rope, "beta_slow", 1e-6, 1e6, &r->beta_slow, why);
    if (rc >= 0) rc = json_get_bool(rope, "truncate", &r->truncate, why);
    if (rc >= 0) rc = json_get_real(rope, "mscale", 0, 1e3, &mscale, why);
    if (rc >= 0) rc = json_get_real(rope, "mscale_all_dim", 0, 1e3, &r->mscale_all_dim, why);
    if (rc >= 0) rc = json_get_real(rope, "attention_factor", 1e-6, 1e6, &amplitude, why);
    if (rc < 0) return rc;
    if (r->beta_fast < r->beta_slow)
        return fail(why, ERR_INVALID, "beta_fast is %g and beta_slow %g; wanted at least it", r->beta_fast, r->beta_slow);
    r->amplitude = yarn_amplitude(r, amplitude, mscale, deepseek);
    return 0;
}

/* Older files have the original length beside the object, and there it counts. */
static int read_original(const json_t *root, const json_t *rope, int max_positions, struct rope *r, struct why *why) {
    int64_t n = 0;
    int rc = json_get_int(root, "original_max_position_embeddings", 1, MAX_POSITIONS, &n, why);
    if (rc == 0) rc = json_get_int(rope, "original_max_position_embeddings", 1, MAX_POSITIONS, &n, why);
    r->original = n ? (int)n : max_positions;
    return rc;
}

static int read_scaling(const json_t *root, const json_t *rope, const struct family *f, int max_positions, struct rope *r,
                        struct why *why) {
    int rc = read_kind(rope, &r->kind, why);
    if (rc >= 0) rc = check_members(rope, r->kind, why);
    if (rc < 0 || r->kind == ROPE_PLAIN) return rc;
    if (r->kind != ROPE_LINEAR && (rc = read_original(root, rope, max_positions, r, why)) < 0) return rc;
    rc = json_get_real(rope, "factor", 1, 1e6, &r->factor, why);
    if (rc == 0 && r->kind == ROPE_YARN) r->factor = fmax(1, (double)max_positions / r->original);
    else if (rc == 0) rc = fail(why, ERR_INVALID, "factor is missing; wanted a number from 1 to 1e6");
    if (rc >= 0 && r->kind == ROPE_LLAMA3) rc = read_llama3(rope, r, why);
    if (rc >= 0 && r->kind == ROPE_YARN) rc = read_yarn(rope, f->rope_interleaved, r, why);
    return rc;
}

/* Whichever of the two objects there is; both only where one of them scales nothing. Theta may be in either or at the top. */
static int read_objects(const json_t *root, const struct family *f, int max_positions, struct rope *r, struct why *why) {
    static const char *const names[] = {"rope_parameters", "rope_scaling"};
    double theta[3] = {0, 0, 0};
    int rc = json_get_real(root, "rope_theta", 1.0, 1e12, &theta[2], why);
    if (rc < 0) return rc;
    for (int i = 0; i < 2; i++) {
        const json_t *rope = NULL;
        struct rope got = {.kind = ROPE_PLAIN, .factor = 1, .amplitude = 1};
        rc = json_get_object(root, names[i], &rope, why);
        if (rc == 0) continue;
        if (rc > 0) rc = read_scaling(root, rope, f, max_positions, &got, why);
        if (rc >= 0) rc = json_get_real(rope, "rope_theta", 1.0, 1e12, &theta[i], why);
        if (rc < 0) return rope ? fail_in(why, rc, "%s", names[i]) : rc;
        if (r->kind != ROPE_PLAIN && got.kind != ROPE_PLAIN)
            return fail(why, ERR_INVALID, "rope_parameters and rope_scaling both scale; wanted one of them");
        if (got.kind != ROPE_PLAIN) *r = got;
    }
    double nested = theta[0] > 0 ? theta[0] : theta[1], top = theta[2];
    if (top > 0 && nested > 0 && top != nested)
        return fail(why, ERR_INVALID, "rope_theta is %g, but %g in rope_parameters or rope_scaling; wanted one value", top,
                    nested);
    r->theta = nested > 0 ? nested : top > 0 ? top : f->theta;
    if (r->kind == ROPE_YARN && r->theta < 1.001)
        return fail(why, ERR_INVALID, "rope_theta is %g; wanted more than 1 with rope_type \"yarn\"", r->theta);
    return 0;
}

/* partial_rotary_factor, at the top or in the object, or the number of elements itself as rotary_dim. */
static int read_dims(const json_t *root, const struct family *f, int head, struct rope *r, struct why *why) {
    static const char *const names[] = {NULL, "rope_parameters", "rope_scaling"};
    double factor = -1;
    int64_t dims = 0;
    for (int i = 0; i < 3; i++) {
        double v = -1;
        int rc = json_get_real(names[i] ? json_object_get(root, names[i]) : root, "partial_rotary_factor", 1e-6, 1, &v, why);
        if (rc < 0) return names[i] ? fail_in(why, rc, "%s", names[i]) : rc;
        if (rc > 0 && factor > 0 && v != factor)
            return fail(why, ERR_INVALID, "partial_rotary_factor is %g and, in %s, %g; wanted one value", factor, names[i], v);
        if (rc > 0) factor = v;
    }
    int rc = json_get_int(root, "rotary_dim", 2, MAX_HEAD_DIM, &dims, why);
    if (rc < 0) return rc;
    if (!f->rotary && factor > 0 && factor != 1)
        return fail(why, ERR_UNSUPPORTED, "partial_rotary_factor is %g, which model_type %s does not have; accepted: null, 1",
                    factor, f->model_type);
    if (!f->rotary && dims && dims != head)
        return fail(why, ERR_UNSUPPORTED, "rotary_dim is %lld, which model_type %s does not have; accepted: null",
                    (long long)dims, f->model_type);
    if (dims && factor > 0 && dims != (int)(head * factor))
        return fail(why, ERR_INVALID, "rotary_dim is %lld, but partial_rotary_factor %g of %d elements is %d; wanted one value",
                    (long long)dims, factor, head, (int)(head * factor));
    r->dims = dims ? (int)dims : (int)(head * (factor > 0 ? factor : f->rotary > 0 ? f->rotary : 1));
    if (r->dims < 2 || r->dims % 2 || r->dims > head)
        return fail(why, ERR_INVALID, "%d of %d elements of a head are rotated; wanted an even number from 2 to %d", r->dims,
                    head, head);
    return 0;
}

int config_rope(const json_t *root, const struct family *f, struct model_config *out, struct why *why) {
    bool always = false;
    out->rope = (struct rope){.kind = ROPE_PLAIN, .factor = 1, .amplitude = 1, .interleaved = f->rope_interleaved};
    int rc = read_objects(root, f, out->max_positions, &out->rope, why);
    if (rc >= 0) rc = read_dims(root, f, f->mla ? out->mla.rope : out->head_dim, &out->rope, why);
    out->rope.interleaved = f->rope_interleaved;
    if (rc >= 0 && f->rope_interleaved) rc = json_get_bool(root, "rope_interleave", &out->rope.interleaved, why);
    if (rc >= 0 && f->yarn_beyond) rc = json_get_bool(root, "yarn_always", &always, why);
    if (rc < 0) return rc;
    if (f->yarn_beyond && !always && out->rope.kind == ROPE_YARN && out->max_positions <= out->rope.original)
        out->rope = (struct rope){.kind = ROPE_PLAIN, .theta = out->rope.theta, .dims = out->rope.dims, .factor = 1,
                                  .amplitude = 1, .interleaved = out->rope.interleaved};
    if (f->mla) config_mla_scale(out);
    return 0;
}
