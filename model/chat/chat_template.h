/* chat_template.h - a checkpoint's chat template (Jinja), compiled once and rendered per request.
 *
 * The subset that published checkpoints use, with transformers' settings (trim_blocks, lstrip_blocks, tojson without escaping).
 * An unknown construct is an error at load that names line and construct, never a wrong prompt. Rendering is bounded in output
 * size, steps and depth. Immutable after open: any number of threads may render. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "model/text/tokenizer.h"

struct chat_template;
/* From dir: chat_template.jinja (with additional_chat_templates/tool_use.jinja), or "chat_template" in tokenizer_config.json (a
 * text, or a list or an object with "default" and perhaps "tool_use"), or chat_template.json. The tool_use template serves
 * requests with tools. ERR_NOT_FOUND when the checkpoint has none. Templates see bos_token, eos_token, image_token etc. as
 * tokenizer_config.json or special_tokens_map.json names them. */
int  chat_template_open(const char *dir, struct chat_template **out, struct why *why);
int  chat_template_compile(const char *source, size_t len, struct chat_template **out, struct why *why);
void chat_template_close(struct chat_template *t);

struct chat_message {
    const char *role, *content; /* UTF-8, NUL-free; checked by the caller */
};
/* Appends the prompt. ERR_INVALID with the template's own raise_exception message in why. now: seconds since 1970, for
 * strftime_now. */
int  chat_template_render(const struct chat_template *t, const struct chat_message *messages, int n, bool add_generation_prompt,
                          int64_t now, struct text_buf *out, struct why *why);
/* The same with any variables: a JSON object (messages, tools, add_generation_prompt, ...). For fixtures and richer
 * requests. */
int  chat_template_render_json(const struct chat_template *t, const char *json, size_t len, int64_t now, struct text_buf *out,
                               struct why *why);
