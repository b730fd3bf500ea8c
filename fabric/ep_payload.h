/* ep_payload.h - how the numbers of a row travel. A row is packed once at home and unpacked where it is used, also when that is
 * the same worker: so what a format loses is lost everywhere alike, and no result depends on where an expert is.
 *
 *   f32    as it is
 *   bf16   rounded to nearest even; NaN stays NaN
 *   int8   groups of 128: one f32 scale = largest magnitude / 127, then x / scale rounded to nearest even
 *   fp8    groups of 128: one f32 scale = largest magnitude / 448, then x / scale as e4m3 (OCP FP8: 1-4-3, bias 7)
 *
 * A packed row of int8 or fp8 is its scales, then its numbers, then a pad to 4 bytes. A group with a number that is not finite
 * becomes NaN as a whole. sum32 and sum64 are the fixed-point sums of the fused combine (ep_fixed.h). Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ep_format { EP_F32, EP_BF16, EP_INT8, EP_FP8, EP_PLAIN_FORMATS, EP_SUM32 = EP_PLAIN_FORMATS, EP_SUM64, EP_FORMATS };
enum { EP_GROUP = 128 };

const char *ep_format_name(enum ep_format f); /* "f32" */
int ep_format_parse(const char *name);        /* one of the first four, or ERR_INVALID */
size_t ep_row_bytes(enum ep_format f, int hidden); /* a multiple of 4 */
void ep_pack(enum ep_format f, void *out, const float *row, int hidden);   /* plain formats; 4-byte aligned */
void ep_unpack(enum ep_format f, float *row, const void *in, int hidden);
