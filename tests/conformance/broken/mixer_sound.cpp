// Nothing is wrong with this one.
#include "mixer.h"

TENON_MIXER(Mixer)
