#include "plugins/serve/stage.h"

BP_EXPORT_STAGE("serve", 1, bp::stages::Serve)
