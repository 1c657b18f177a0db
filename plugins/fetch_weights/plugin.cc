#include "plugins/fetch_weights/stage.h"

BP_EXPORT_STAGE("fetch_weights", 1, bp::stages::FetchWeights)
