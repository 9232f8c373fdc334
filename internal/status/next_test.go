package status

import (
	"strings"
	"testing"

	"github.com/walferry/walferry/internal/state"
)

func TestNextSteps(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		st   Status
		auto bool
		want string
	}{
		{Status{Name: "default"}, false, "walferry check, walferry migrate"},
		{Status{Name: "a", Phase: state.Copying}, false, "walferry migrate --name a"},
		{Status{Name: "a", Phase: state.Copying, Running: true}, false, ""},
		{Status{Phase: state.Following, Running: true}, false, "walferry verify, walferry cutover --dry-run, walferry cutover"},
		{Status{Phase: state.Following, Running: true}, true, ""},
		{Status{Phase: state.Following, Running: true, Requests: []Request{{}}}, false, ""},
		{Status{Phase: state.Switched, Running: true, WayBack: WayBack{State: state.BackFollowing}}, false, "walferry fallback, walferry finish"},
		{Status{Phase: state.Switched, Running: true, WayBack: WayBack{State: state.BackInterrupted}}, false, ""},
		{Status{Phase: state.Switched, Running: true, WayBack: WayBack{State: state.BackLost}}, false, "walferry finish"},
		{Status{Phase: state.Switched, WayBack: WayBack{State: state.BackFollowing}}, false, "walferry migrate"},
		{Status{Phase: state.Finished}, false, "walferry cleanup"},
		{Status{Phase: state.Aborted}, false, "walferry cleanup"},
	} {
		if got := strings.Join(c.st.nextSteps(c.auto), ", "); got != c.want {
			t.Errorf("%s, running %v: got %q, want %q", c.st.Phase, c.st.Running, got, c.want)
		}
	}
}
