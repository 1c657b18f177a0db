#include "plugins/validate/stage.h"

BP_EXPORT_STAGE("validate", 1, bp::stages::Validate)
