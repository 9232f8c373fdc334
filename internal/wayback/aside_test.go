package wayback

import (
	"os"
	"strings"
	"testing"
)

// Who needs the query has no walferry, and perhaps no log of it any more.
func TestPutBackSQL_Documented(t *testing.T) {
	text, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	if sql := PutBackSQL("default_back"); !strings.Contains(string(text), "```sql\n"+sql+"\n\\gexec\n```\n") {
		t.Errorf("docs/operating.md does not have the query that puts back what is put aside:\n%s", sql)
	}
}
