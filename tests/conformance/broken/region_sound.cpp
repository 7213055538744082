// Nothing is wrong with this one.
#include "region.h"

TENON_STACK(Stack)
