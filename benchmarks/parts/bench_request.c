/* bench_request.c: the scan of a head and the decision how its body is framed. */
#include "request.h"

#include "measure.h"

enum { MAX_FIELDS = 32 };

static const char HELLO[] = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n";
static const char BROWSER[] =
    "GET /articles/2026?page=2 HTTP/1.1\r\nHost: www.example.org\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0\r\n"
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8\r\n"
    "Accept-Language: en-GB,en;q=0.8,de;q=0.5,fr;q=0.3\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "Referer: https://www.example.org/articles/2026/how-servers-are-measured\r\n"
    "Cookie: session=3f9d6c1be0a84d57b2c9; theme=dark; consent=necessary\r\n"
    "Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n"
    "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n\r\n";
static const char PATH[] = "/caf%C3%A9/a%20b/plain/and/long/enough/to/count";

static fc_field fields[MAX_FIELDS];
static fc_request request = {.fields = fields, .max_fields = MAX_FIELDS};
static fc_framing framing;

int main(void) {
  const char *why;
  char out[sizeof PATH];
  MEASURE("scan hello", KEEP(fc_request_scan(&request, HELLO, sizeof HELLO - 1)));
  MEASURE("frame hello", KEEP(fc_request_frame(&request, &framing, &why)));
  MEASURE("scan browser", KEEP(fc_request_scan(&request, BROWSER, sizeof BROWSER - 1)));
  MEASURE("frame browser", KEEP(fc_request_frame(&request, &framing, &why)));
  MEASURE("find the last of twelve", KEEP(fc_request_find(&request, "sec-fetch-site", 14)));
  MEASURE("unquote 47 bytes", KEEP(fc_request_unquote(PATH, sizeof PATH - 1, out)));
  return 0;
}
