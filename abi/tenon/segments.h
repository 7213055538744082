/* Tenon ABI 0.9: extension org.tenon.segments/1 of quantizers: weights as sums of parts of falling worth, so that a byte budget decides how
 * many of them are loaded (BitStack, Wang et al. 2024).
 *
 * A component flagged TN_COMPONENT_SEGMENTED has at least two axes and one slice a segment along the first; all such components of a target
 * have the same number of slices. decode and the fused products take any prefix of at least one slice: the first axis of what is passed
 * says how many, the same for all. encode is always given all of them. Components without the flag belong to every prefix.
 *
 * The host orders the segments of a whole model level by level: the first of every weight, then the second of every weight, and so on. Within
 * a level the weights follow by the loss of the model, whose weights all stand at the level before, with this one segment more, the least
 * first. What fits the budget from the front of that order is a model. */
#ifndef TENON_SEGMENTS_H
#define TENON_SEGMENTS_H

#include "tenon/quantizer.h"

#define TN_EXT_SEGMENTS "org.tenon.segments/1"

typedef struct tn_segment_plan {
  uint32_t struct_size;
  uint32_t scored_levels; /* levels after the first whose order is measured; those beyond repeat the last order. 0: the order of the model */
  int64_t sequences;      /* of calibration text that the losses are taken of; less where the text is short */
  int64_t length;         /* tokens of a sequence */
} tn_segment_plan;        /* fence segments/1 */

typedef struct tn_segmented {
  uint32_t struct_size;
  uint32_t reserved;
  int32_t (*plan)(tn_quantizer* self, tn_segment_plan* out);                                                        /* [any-thread] */
} tn_segmented; /* fence segments/1 */

#endif
