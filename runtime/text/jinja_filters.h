// Filters that more than one file of the interpreter needs. Internal to jinja_filters.cc and
// jinja_list_filters.cc. All throw Failure.
#pragma once
#include "runtime/text/jinja_eval.h"

namespace bp::rt::jinja {

/// Argument by place or name; Failure when it is missing.
const Value& need(CallArgs& args, size_t index, const char* name);
bool flag(CallArgs& args, size_t index, const char* name, bool absent = false);

Value choose(Evaluator& e, const Value& v, CallArgs& args, bool by_attribute, bool keep);
Value map(Evaluator& e, const Value& v, CallArgs& args);
Value sort(Evaluator& e, const Value& v, CallArgs& args);
Value dictsort(Evaluator& e, const Value& v, CallArgs& args);
Value unique(Evaluator& e, const Value& v, CallArgs& args);
Value extreme(Evaluator& e, const Value& v, CallArgs& args, int sign);
Value join(Evaluator& e, const Value& v, CallArgs& args);
Value sum(Evaluator& e, const Value& v, CallArgs& args);
Value items(Evaluator&, const Value& v, CallArgs&);
Value reverse(Evaluator&, const Value& v, CallArgs&);
Value edge(const Value& v, bool first);
Value batch(Evaluator&, const Value& v, CallArgs& args);

}  // namespace bp::rt::jinja
