// Shows the secret behind the link's hash to the manager, which answers with a session.
const said = document.querySelector('#said');

async function logIn() {
  const secret = location.hash.slice(1);
  if (!secret) return;
  // It is good once, and has no business in the browser's history.
  history.replaceState(null, '', '/login');
  said.textContent = 'Letting you in …';
  try {
    const answer = await fetch('/login', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ secret }),
    });
    if (answer.ok) {
      location.replace('/');
      return;
    }
    const { problem } = await answer.json().catch(() => ({}));
    said.textContent = problem ?? `The manager refused (${answer.status}).`;
  } catch {
    said.textContent = 'The manager can’t be reached.';
  }
  said.classList.add('problem');
}

addEventListener('hashchange', logIn);
logIn();
