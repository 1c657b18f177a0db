#include "plugins/start_head/stage.h"

BP_EXPORT_STAGE("start_head", 1, bp::stages::StartHead)
