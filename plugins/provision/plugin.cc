#include "plugins/provision/stage.h"

BP_EXPORT_STAGE("provision", 1, bp::stages::Provision)
