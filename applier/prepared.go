package applier

import (
	"container/list"
	"fmt"
)

// preparedMax bounds the statements that are kept prepared on the server. Each holds a plan there,
// some ten kilobytes.
const preparedMax = 512

// prepared are the statements that the server has prepared in a session.
type prepared struct {
	elements map[*statement]*list.Element
	used     list.List // of *statement, the one used last in front
	names    int       // given so far
}

// forget is for after a DEALLOCATE ALL.
func (p *prepared) forget() {
	p.elements = map[*statement]*list.Element{}
	p.used.Init()
}

// has reports whether a statement is prepared. If so it is the one used last.
func (p *prepared) has(s *statement) bool {
	element := p.elements[s]
	if element != nil {
		p.used.MoveToFront(element)
	}
	return element != nil
}

// surplus removes the statement that has not been used for longest, while there are too many.
func (p *prepared) surplus() *statement {
	if p.used.Len() < preparedMax {
		return nil
	}
	last := p.used.Remove(p.used.Back()).(*statement)
	delete(p.elements, last)
	return last
}

// add gives a statement that is about to be prepared its name.
func (p *prepared) add(s *statement) {
	p.names++
	s.name = fmt.Sprintf("walferry_%d", p.names)
	p.elements[s] = p.used.PushFront(s)
}
