/* Tenon ABI 0.9: extension org.tenon.input-rounding/1 of quantizers whose linear() also codes its input as it is multiplied (LLM.int8()): the
 * product comes near decode and multiply, not to the last place. Such an instance is still the codec of a weight and no more is kept of x. */
#ifndef TENON_INPUT_ROUNDING_H
#define TENON_INPUT_ROUNDING_H

#include "tenon/quantizer.h"

#define TN_EXT_INPUT_ROUNDING "org.tenon.input-rounding/1"

typedef struct tn_input_rounding {
  uint32_t struct_size;
  uint32_t reserved;
  double share; /* of Σ |x_j w_ij|: how far an element of the product may be off, for inputs of like size */
} tn_input_rounding; /* fence input-rounding/1 */

#endif
