import { type FormEvent, useId } from 'react';
import { useAuth } from './auth';

/** Requests a token from the user and connects with it. */
export function TokenForm({ title, reason }: { title: string; reason?: string | undefined }) {
  const { token, setToken } = useAuth();
  const id = useId();

  function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const value = new FormData(event.currentTarget).get('token');
    if (typeof value === 'string' && value.trim() !== '') setToken(value.trim());
  }

  return (
    <form className="token" onSubmit={submit}>
      <h2>{title}</h2>
      {reason !== undefined && <p>Answer of the server: {reason}.</p>}
      <label htmlFor={id}>Token (JWT)</label>
      <div className="token-line">
        {/* Not a password of the site: browsers should not offer to keep it. */}
        <input id={id} name="token" type="password" autoComplete="off" spellCheck={false} required />
        <button type="submit" className="button">
          Connect
        </button>
      </div>
      <p className="dim">Kept in this tab until it is closed.</p>
      {token !== undefined && (
        <button type="button" className="link" onClick={() => setToken(undefined)}>
          Remove the current token
        </button>
      )}
    </form>
  );
}
