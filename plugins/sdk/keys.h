// Key pairs for stages that start processes: CURVE pairs in Z85 text (see engine/bus/bus.h).
#pragma once
#include "engine/bus/bus.h"

namespace bp::sdk {
using bus::KeyPair;
using bus::load_or_make_key_pair;
using bus::make_key_pair;
}  // namespace bp::sdk
