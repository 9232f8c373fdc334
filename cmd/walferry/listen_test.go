package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// port finds a free port, and sets $PORT.
func port(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer l.Close()
	_, number, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv("PORT", number)
}

// get asks a migrate, or a serve, that listens on $PORT: get CODE PATH [TEXT] [TOKEN]. It asks until the answer is CODE and has TEXT, and
// prints it. Nothing of the canary may be in it.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 4 {
		ts.Fatalf("usage: get CODE PATH [TEXT] [TOKEN]")
	}
	args = append(args, "", "")[:4]
	var last string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		code, body, err := fetch("http://127.0.0.1:"+ts.Getenv("PORT")+args[1], args[3])
		if last = fmt.Sprint(code, " ", err, "\n", body); err == nil && fmt.Sprint(code) == args[0] && strings.Contains(body, args[2]) {
			fmt.Fprint(ts.Stdout(), body)
			for _, part := range []string{"canary", "wren"} {
				if strings.Contains(strings.ToLower(body), part) {
					ts.Fatalf("%s shows the password", args[1])
				}
			}
			return
		}
	}
	ts.Fatalf("waited in vain for %v: %s", args, last)
}

func fetch(url, token string) (code int, body string, err error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") == "text/event-stream" { // which does not end
		first := make([]byte, 64<<10)
		n, err := answer.Body.Read(first)
		return answer.StatusCode, string(first[:n]), err
	}
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}
