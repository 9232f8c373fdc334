package status

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/walferry/walferry/internal/online"
	"github.com/walferry/walferry/internal/state"
)

// What was asked comes in its order, with whom the cutover that is under way waits for; nobody's age
// is 0 where the role may not see it.
func TestRequests(t *testing.T) {
	var st Status
	st.Under = &state.Under{Asked: true}
	st.Begins(state.Taken{Name: "alone", Outcome: state.Done})
	st.Begins(state.Taken{Name: "quiet moment", Outcome: state.Begun})
	st.WaitsFor(online.Wait{For: "waiting for writers: ", Holders: []online.Holder{
		{PID: 4711, User: "web", Application: "billing-cron", Seconds: 3, State: "idle in transaction", Query: "UPDATE"},
		{PID: 12, User: "app", Application: "x", Seconds: -1},
	}})
	st.Under.Looked = time.Now().Add(-10 * time.Second)
	live := st.Live()
	text, err := json.Marshal(live)
	if err != nil {
		t.Fatal(err)
	}
	var read state.Live
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	open := []state.Open{{Kind: "cutover", Seconds: 12.4, Taken: true}, {Kind: "cutover", DryRun: true, Seconds: 2}, {Kind: "hold", Seconds: 1}, {Kind: "release"}}
	got := requests(open, read.Under, "cutover")
	if len(got) != 3 || got[0].Kind != "cutover" || got[1].Kind != "rehearsal" || got[2].Kind != "verify" || got[1].Begun || !got[0].Begun || *got[0].AskedSeconds != 12.4 {
		t.Fatalf("got %+v", got)
	}
	if age := got[0].Holders[0].Seconds; age == nil || *age < 13 || *age > 60 {
		t.Errorf("the age of the first is %v, want that it grows", age)
	}
	if got[0].Holders[1].Seconds != nil {
		t.Error("the second has an age that nobody may see")
	}
	*got[0].Holders[0].Seconds = 13
	if text, want := got[0].Holding(), `waiting for writers: pid 4711 (web, "billing-cron", a transaction of 13 s, idle in transaction, UPDATE), pid 12 (app, "x")`; text != want || got[0].Step != "quiet moment" {
		t.Errorf("step %q, %s\nwant %s", got[0].Step, text, want)
	}

	// One by itself, and a step that has begun since: whom the last one waited for is not said any more.
	st.Begins(state.Taken{Name: "quiet moment", Outcome: state.Done})
	st.Begins(state.Taken{Name: "fence", Outcome: state.Begun})
	if gone := requests(nil, st.Live().Under, "cutover"); len(gone) > 0 {
		t.Errorf("got %+v of a cutover that was answered", gone)
	}
	st.Under.Asked = false
	alone := requests(nil, st.Live().Under, "cutover")
	if text, _ := json.Marshal(alone); string(text) != `[{"kind":"cutover","asked_seconds":null,"begun":true,"step":"fence","holders":[]}]` {
		t.Errorf("got %s", text)
	}
	if back := requests([]state.Open{{Kind: "fallback", Taken: true}}, &state.Under{Asked: true, Step: "fence"}, "fallback"); len(back) != 1 || back[0].Kind != "fallback" || back[0].Step != "fence" {
		t.Errorf("got %+v of a fallback", back)
	}
	if text := fmt.Sprint(requests(nil, nil, "cutover")); text != "[]" {
		t.Errorf("got %s where nothing is asked", text)
	}
}
