#include "plugins/join_workers/stage.h"

BP_EXPORT_STAGE("join_workers", 1, bp::stages::JoinWorkers)
